//! A guest that idles, and one that does not quite: for the check that idling costs no exit.

use core::sync::atomic::{AtomicU32, Ordering};

use super::access::{self, DART};
use super::exception::attempt;
use super::firmware::{self, hypervisor_call, monitor_call};
use super::print;
use super::tree::HOLES;

/// PSCI_VERSION. Source: Arm DEN 0022.
const VERSION: u64 = 0x8400_0000;
/// SMCCC leaves this range of function identifiers to the vendor's hypervisor. Source: Arm DEN
/// 0028.
const HYPERVISOR_SERVICE: u64 = 0x8600_0000;

/// The runner writes these from outside.
const BEGIN: u32 = 1;
const ENOUGH: u32 = 2;
const COUNTED: u32 = 3;
static ORDER: AtomicU32 = AtomicU32::new(0);

/// Repeats each kind of exit, the first of them none, until the runner has seen [`ENOUGH`], and
/// says how often it did.
pub(super) fn run(holes: &[u64; HOLES]) -> ! {
    let hole = holes.iter().copied().find(|hole| *hole != 0).unwrap_or(0);
    phase("none", core::hint::spin_loop);
    phase("hvc", || {
        hypervisor_call([HYPERVISOR_SERVICE, 0, 0, 0]);
    });
    phase("smc", || {
        monitor_call([VERSION, 0, 0, 0]);
    });
    phase("abort", || {
        attempt(|| access::load_word(hole));
    });
    phase("dart", || access::load_word(DART));
    phase("none", core::hint::spin_loop);
    firmware::power_off()
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
