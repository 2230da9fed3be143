//! The steps of bring-up, from the entry to the moment when the first of the other CPUs is taken.
//!
//! A test has each of them fail, and expects U-Boot to start natively: see `bare::fail_open`.

macro_rules! steps {
    ($($(#[doc = $text:literal])* $name:ident = $number:literal,)*) => {
        /// A step of bring-up.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Step {
            $($(#[doc = $text])* $name = $number,)*
        }

        impl Step {
            /// All steps, in order.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

steps! {
    /// Reading the FDT.
    Fdt = 1,
    /// Checking the CPU.
    Cpu = 2,
    /// Finding the packed files.
    Payload = 3,
    /// Reading the options.
    Options = 4,
    /// Planning the memory.
    Layout = 5,
    /// Opening the heap and clearing Oche's memory.
    Memory = 6,
    /// Examining the board's devices.
    Devices = 7,
    /// Building stage 2.
    Stage2 = 8,
    /// The self-test.
    SelfTest = 9,
    /// Making the engine.
    Engine = 10,
    /// Configuring this CPU for the guest, and checking the tables.
    Configuration = 11,
    /// Finding the other CPUs.
    OtherCpus = 12,
    /// Planning the guest's FDT.
    GuestFdt = 13,
    /// Copying the guest's kernel.
    Kernel = 14,
}

/// How a step is to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By `fatal`.
    Fatal,
    /// By a panic.
    Panic,
    /// By a data abort.
    Abort,
}

/// The word with which a test has `step` fail; 0 is none.
pub const fn request(step: Step, mode: Mode) -> u32 {
    step as u32 | (mode as u32) << 8
}

/// No request, which is not 0, so that the word is in the image's data.
pub const NO_REQUEST: u32 = u32::MAX;
/// The word's symbol in an image that is built with the feature `fail-on-request`.
pub const REQUEST_SYMBOL: &str = "OCHE_FAIL_AT";
