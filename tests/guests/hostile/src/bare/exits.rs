//! What exits from the guest cost at EL2, for a measurement: the CPU itself counts instructions.

use core::hint::black_box;

use oche_guest_common::mmio::{read32, write32};
use oche_guest_common::smccc::{HYPERVISOR_SERVICE, PSCI_VERSION, hvc, power_off, smc};
use oche_guest_common::{Pages, print};

use super::beside;
use super::board::DART;
use super::counter::{count_hypervisor, sum_of};
use super::edu::STREAM;
use super::mapping::{self, COMMAND, INVALIDATE, Rights, SELECT};

/// How often each exit is made.
const TURNS: u32 = 256;
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
    beside::run();
    mapping::end(STREAM);
    print(format_args!("guest: measured all\n"));
    power_off()
}

fn measure(name: &str, exit: impl FnMut()) {
    measure_with(name, "", exit);
}

fn measure_with(name: &str, what: &str, exit: impl FnMut()) {
    let dash = if what.is_empty() { "" } else { "-" };
    let taken = sum_of(TURNS, exit);
    print(format_args!("guest: measured: {name}{dash}{what} {taken} per {TURNS}\n"));
}
