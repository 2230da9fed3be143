//! A Mac as a test describes it: its memory, its CPUs, its DARTs, and what is wrong with it.

use std::ffi::OsString;
use std::time::Duration;

use oche_types::range::PhysRange;

use super::dart::Setting;
use super::fault::Fault;
use super::screen;

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

/// Who is behind a DART: stream and name.
type Clients = &'static [(u32, &'static str)];

/// A DART that the board has, whatever the compiled tree says of it: address, the label of its
/// power domain, and who is behind it. The kernel's tree of this age has the PCIe ones alone; the
/// rest is what newer trees say. Source: `docs/m1.md`, "The DARTs".
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
    /// A bit for each CPU that never comes, whatever is written into its word.
    pub missing: u64,
    /// What the FDT calls memory. It need not begin or end anywhere even.
    pub memory: PhysRange,
    /// Further banks of it, behind the first.
    pub more_memory: Vec<PhysRange>,
    /// What `/reserved-memory` names.
    pub reserved: Vec<PhysRange>,
    /// What is wrong with the FDT.
    pub fault: Option<Fault>,
    /// What the FDT says of the second CPU's release address, where that is wrong.
    pub wrong_release: Option<u64>,
    /// Where the image is loaded: a multiple of 2 MiB.
    pub load: u64,
    /// The framebuffer, outside `memory`.
    pub screen: PhysRange,
    /// Properties of `/chosen`.
    pub chosen: Vec<(String, String)>,
    /// What CTRR names: memory inside `memory`, which no block descriptor may overlap.
    pub ctrr: PhysRange,
    /// What m1n1 keeps for itself.
    pub kept: Vec<PhysRange>,
    /// How each of [`DARTS`] is found.
    pub settings: [Setting; DARTS.len()],
    /// The tree names QEMU's interrupt controller, timers and serial port too, which a stock kernel
    /// has drivers for, and devices behind the DARTs.
    pub has_linux: bool,
    /// More arguments for QEMU.
    pub arguments: Vec<OsString>,
    /// Nothing is where the tree says that `sio`'s DART and the NVMe are: accesses there end in bus
    /// errors.
    pub has_dead_devices: bool,
    /// How long the machine runs on when enough has been seen: time for what must not come.
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
                Setting::Idle,
                Setting::Idle,
                Setting::Bypass,
                Setting::Idle,
                Setting::Idle,
                Setting::Locked,
            ],
            has_linux: false,
            arguments: Vec::new(),
            has_dead_devices: false,
            linger: Duration::ZERO,
        }
    }
}

impl Mac {
    /// Where all CPUs' words are that firmware has them wait for.
    #[must_use]
    pub fn release_words(&self) -> PhysRange {
        let start = STUB.start + TABLE;
        PhysRange { start, end: start + self.cpus * TABLE_ENTRY }
    }

    /// All banks of memory.
    pub fn banks(&self) -> impl Iterator<Item = PhysRange> {
        std::iter::once(self.memory).chain(self.more_memory.iter().copied())
    }

    /// Where CPU `index` waits for an address, by the FDT.
    #[must_use]
    pub fn release_address(&self, index: u64) -> u64 {
        if let (1, Some(wrong)) = (index, self.wrong_release) {
            return wrong;
        }
        STUB.start + TABLE + index * TABLE_ENTRY + TABLE_TARGET
    }
}
