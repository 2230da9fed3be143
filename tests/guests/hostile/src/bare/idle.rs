//! A guest that idles, and that repeats one kind of exit: for the test that idling causes no exit.

use core::sync::atomic::{AtomicU32, Ordering};

use oche_guest_common::exception::attempt;
use oche_guest_common::print;
use oche_guest_common::smccc::{HYPERVISOR_SERVICE, PSCI_VERSION, hvc, power_off, smc};

use super::access;
use super::board::{DART, Hidden};

// The runner writes these into `ORDER`.
const BEGIN: u32 = 1;
const ENOUGH: u32 = 2;
const COUNTED: u32 = 3;
static ORDER: AtomicU32 = AtomicU32::new(0);

/// Repeats each kind of exit (the first and the last are none) from [`BEGIN`] to [`ENOUGH`], and
/// prints how often.
pub(super) fn run(hidden: Hidden) -> ! {
    let hole = hidden.iter().next().unwrap_or(0);
    phase("none", core::hint::spin_loop);
    phase("hvc", || {
        hvc([HYPERVISOR_SERVICE, 0, 0, 0]);
    });
    phase("smc", || {
        smc([PSCI_VERSION, 0, 0, 0]);
    });
    phase("abort", || {
        attempt(|| access::load_word(hole));
    });
    phase("dart", || access::load_word(DART));
    phase("none", core::hint::spin_loop);
    power_off()
}

fn phase(name: &str, exit: impl Fn()) {
    ORDER.store(0, Ordering::SeqCst);
    let order = (&raw const ORDER) as u64;
    print(format_args!("guest: idles with exits of kind {name} until {order:#x} changes\n"));
    wait_for(BEGIN);
    let mut exits = 0_u64;
    while ORDER.load(Ordering::SeqCst) != ENOUGH {
        exit();
        exits += 1;
    }
    print(format_args!("guest: made {exits} exits of kind {name}\n"));
    wait_for(COUNTED);
}

fn wait_for(order: u32) {
    while ORDER.load(Ordering::SeqCst) != order {
        core::hint::spin_loop();
    }
}
