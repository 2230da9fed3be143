//! A Mac as a test describes it: its memory, CPUs and DARTs, and its faults.

use std::ffi::OsString;
use std::time::Duration;

use oche_types::range::PhysRange;

use super::dart::DartSetting;
use super::fdt_fault::FdtFault;
use super::flaw::Flaw;
use super::screen;
use super::serial::TypedText;

/// Where m1n1's stub lies, and how much memory it keeps.
pub(crate) const STUB: PhysRange = PhysRange { start: 0x8_0400_0000, end: 0x8_0402_0000 };
/// Where the FDT lies: not even page aligned to anything larger.
pub(crate) const FDT: u64 = 0x8_0410_1000;
/// Bytes that m1n1 keeps for it.
pub(crate) const FDT_BYTES: u64 = 0x4_0000;
/// The end of the stub's words: offset of the table of CPUs, bytes of an entry, offset of the
/// target in it.
const TABLE: u64 = 0x1000;
const TABLE_ENTRY: u64 = 64;
const TABLE_TARGET: u64 = 8;

/// The devices behind a DART: stream and name.
type Clients = &'static [(u32, &'static str)];

/// The board's DARTs, whether or not the compiled tree has them: address, the label of the power
/// domain, and the devices behind it. The kernel's tree of this age has the PCIe ones alone; the
/// others are from newer trees. Source: `docs/m1.md`, "The DARTs".
pub const DARTS: [(u64, &str, Clients); 6] = [
    (0x6_8100_8000, "apcie_gp", &[]),
    (0x6_8200_8000, "apcie_gp", &[]),
    (0x3_82f0_0000, "atc0_usb", &[(0, "usb")]),
    (0x3_82f8_0000, "atc0_usb", &[(1, "usb")]),
    (0x2_3500_4000, "sio_cpu", &[(2, "dma-controller")]),
    (0x2_3130_4000, "disp0_fe", &[(0, "display")]),
];

/// One simulated Mac.
#[derive(Clone, Debug)]
pub struct Mac {
    /// CPUs, 1 to 8.
    pub cpus: u64,
    /// A bit for each CPU that never starts, whatever is written into its release word.
    pub missing: u64,
    /// The memory that the FDT names. Its ends need not be aligned.
    pub memory: PhysRange,
    /// Further banks of it, behind the first.
    pub more_memory: Vec<PhysRange>,
    /// The ranges in `/reserved-memory`.
    pub reserved: Vec<PhysRange>,
    /// A fault of the FDT.
    pub fault: Option<FdtFault>,
    /// What the board lacks.
    pub flaw: Option<Flaw>,
    /// The second CPU's release address in the FDT, if that is to be wrong.
    pub wrong_release: Option<u64>,
    /// Where the image is loaded: a multiple of 2 MiB.
    pub load: u64,
    /// The framebuffer, outside `memory`. Its rows share the bytes out among them.
    pub screen: PhysRange,
    /// Properties of `/chosen`.
    pub chosen: Vec<(String, String)>,
    /// The memory that CTRR names, inside `memory`: no block descriptor may overlap it.
    pub ctrr: PhysRange,
    /// The ranges that m1n1 keeps for itself.
    pub kept: Vec<PhysRange>,
    /// The state in which each of [`DARTS`] is found.
    pub settings: [DartSetting; DARTS.len()],
    /// The tree names QEMU's interrupt controller, timers and serial port too, which a stock kernel
    /// has drivers for, and devices behind the DARTs.
    pub has_linux: bool,
    /// What else the loader has put into memory: addresses and bytes.
    pub files: Vec<(u64, Vec<u8>)>,
    /// What a person types on the serial port, in order.
    pub typed: Vec<TypedText>,
    /// The first USB controller is in the tree, and answers.
    pub has_usb: bool,
    /// More arguments for QEMU.
    pub arguments: Vec<OsString>,
    /// No device is at the addresses that the tree has for `sio`'s DART and the NVMe: accesses
    /// there end in bus errors.
    pub has_dead_devices: bool,
    /// How long the machine runs on after enough has been seen, so that output which must not come
    /// would be seen.
    pub linger: Duration,
}

impl Default for Mac {
    fn default() -> Self {
        Self {
            cpus: 1,
            missing: 0,
            // A MacBook Air's first byte (AsahiLinux/m1n1#107), and an end that is no multiple of
            // anything.
            memory: PhysRange { start: 0x8_019c_4000, end: 0x8_5d3e_4000 },
            more_memory: Vec::new(),
            reserved: Vec::new(),
            fault: None,
            flaw: None,
            wrong_release: None,
            load: 0x8_0800_0000,
            screen: PhysRange {
                start: 0x8_6df4_e000,
                end: 0x8_6df4_e000 + u64::from(screen::STRIDE * screen::HEIGHT),
            },
            chosen: Vec::new(),
            // As Icestorm's CTRR_A_LWR and CTRR_A_UPR read under m1n1. Source: Asahi documentation
            // `hw/cpu/system-register-dumps.md`.
            ctrr: PhysRange { start: 0x8_0485_c000, end: 0x8_0492_4000 },
            kept: vec![STUB, PhysRange { start: FDT, end: FDT + FDT_BYTES }],
            // As m1n1 leaves a Mac: the display's is locked, iBoot left USB in bypass.
            settings: [
                DartSetting::Idle,
                DartSetting::Idle,
                DartSetting::Bypass,
                DartSetting::Idle,
                DartSetting::Idle,
                DartSetting::Locked,
            ],
            has_linux: false,
            files: Vec::new(),
            typed: Vec::new(),
            has_usb: false,
            arguments: Vec::new(),
            has_dead_devices: false,
            linger: Duration::ZERO,
        }
    }
}

impl Mac {
    /// The words on which firmware has the CPUs wait.
    #[must_use]
    pub fn release_words(&self) -> PhysRange {
        let start = STUB.start + TABLE;
        PhysRange { start, end: start + self.cpus * TABLE_ENTRY }
    }

    /// All banks of memory.
    pub fn banks(&self) -> impl Iterator<Item = PhysRange> {
        std::iter::once(self.memory).chain(self.more_memory.iter().copied())
    }

    /// The release address of CPU `index` in the FDT.
    #[must_use]
    pub fn release_address(&self, index: u64) -> u64 {
        if let (1, Some(wrong)) = (index, self.wrong_release) {
            return wrong;
        }
        STUB.start + TABLE + index * TABLE_ENTRY + TABLE_TARGET
    }
}
