//! What exits from the guest cost at EL2, for a measurement: the CPU itself counts instructions.
//!
//! Source: Arm ARM DDI 0487, D13 "The Performance Monitors Extension", `PMEVTYPER<n>_EL0`; event 8
//! is `INST_RETIRED`.

use core::arch::asm;
use core::hint::black_box;

use oche_guest_common::mmio::{read32, write32};
use oche_guest_common::smccc::{HYPERVISOR_SERVICE, PSCI_VERSION, hvc, power_off, smc};
use oche_guest_common::{Pages, print};

use super::board::DART;
use super::edu::STREAM;
use super::mapping::{self, COMMAND, INVALIDATE, Rights, SELECT};

/// How often each exit is made.
const TURNS: u64 = 256;
/// Two IOVA pages in different granules, in different slots.
const IOVAS: [usize; 2] = [0x11, 0x16];

static PAGE: Pages<1> = Pages::new();

/// Makes each kind of exit, and prints what it costs.
pub(super) fn run() -> ! {
    count_hypervisor();
    measure("hvc", || {
        hvc([HYPERVISOR_SERVICE, 0, 0, 0]);
    });
    measure("smc", || {
        smc([PSCI_VERSION, 0, 0, 0]);
    });
    mapping::begin(STREAM);
    measure("register-load", || _ = black_box(read32(DART + SELECT)));
    measure("register-store", || write32(DART + SELECT, 1 << STREAM));
    measure("busy-load", || _ = black_box(mapping::is_busy()));
    measure("empty-flush", || write32(DART + COMMAND, INVALIDATE));
    for (name, rights) in [("copies-read", Rights::Read), ("copies-written", Rights::ReadWrite)] {
        for iova in IOVAS {
            mapping::set(STREAM, iova, Some((PAGE.address(), rights)));
        }
        measure_with(name, "load", || _ = black_box(PAGE.word(5)));
        measure_with(name, "store", || PAGE.set_word(5, black_box(7)));
        for iova in IOVAS {
            mapping::set(STREAM, iova, None);
        }
    }
    mapping::end(STREAM);
    print(format_args!("guest: measured all\n"));
    power_off()
}

fn measure(name: &str, exit: impl FnMut()) {
    measure_with(name, "", exit);
}

fn measure_with(name: &str, what: &str, mut exit: impl FnMut()) {
    let dash = if what.is_empty() { "" } else { "-" };
    let before = hypervisor_instructions();
    (0..TURNS).for_each(|_| exit());
    let taken = hypervisor_instructions().wrapping_sub(before);
    print(format_args!("guest: measured: {name}{dash}{what} {taken} per {TURNS}\n"));
}

/// Has this CPU's first counter count instructions at EL2, and no others.
fn count_hypervisor() {
    // P and U leave EL1 and EL0 out, NSH takes EL2 in.
    let event: u64 = 8 | 1 << 31 | 1 << 30 | 1 << 27;
    // SAFETY: registers of the counters, which nothing else uses.
    unsafe {
        asm!(
            "msr pmevtyper0_el0, {event}",
            "msr pmcntenset_el0, {one}",
            "msr pmcr_el0, {one}",
            "isb",
            event = in(reg) event,
            one = in(reg) 1u64,
            options(nostack)
        );
    }
}

fn hypervisor_instructions() -> u32 {
    let count: u64;
    // SAFETY: reads a counter.
    unsafe { asm!("isb", "mrs {}, pmevcntr0_el0", out(reg) count, options(nostack)) };
    count as u32
}
