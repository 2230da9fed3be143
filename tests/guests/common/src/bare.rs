//! What runs on the target.

mod cases;
pub mod console;
pub mod cpu;
pub mod entry;
pub mod exception;
pub mod mmio;
mod pages;
mod random;
pub mod smccc;

pub use cases::{CaseReport, Check, check};
pub use console::print;
pub use pages::{PAGE_BYTES, Pages};
pub use random::Random;

use core::fmt;
use core::panic::PanicInfo;

use crate::fdt::Tree;
use console::Uart;
use exception::Exception;

/// What a guest adds to the run time.
pub trait Guest {
    /// Its serial port.
    const UART: Uart;
    /// The first level of stage 1: an entry for each GiB from address 0 on.
    const STAGE1: [u64; entry::ENTRIES];

    /// Runs on the first CPU, with the MMU on.
    fn main(tree: Tree) -> !;

    /// Runs on another CPU, with the MMU on. `number` is what [`entry::secondary`] got in x0.
    fn secondary(number: u64) -> !;

    /// Handles a FIQ from EL1.
    fn fiq() {
        panic!("an unexpected FIQ");
    }

    /// Handles an exception that no [`exception::attempt`] expects. On return, the guest continues
    /// behind the instruction.
    fn unexpected(exception: Exception) {
        panic!("{exception:x?}");
    }

    /// Prints on the serial port.
    fn print(text: fmt::Arguments<'_>) {
        Self::UART.print(text);
    }
}

/// Reports a panic of the guest itself in one line, and turns the machine off.
pub fn fail(info: &PanicInfo<'_>) -> ! {
    let message = info.message();
    match info.location() {
        Some(place) => print(format_args!("guest: itself FAILED: {message} ({place})\n")),
        None => print(format_args!("guest: itself FAILED: {message}\n")),
    }
    smccc::power_off()
}
