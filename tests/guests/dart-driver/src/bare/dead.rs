//! Devices that the tree names and at whose addresses nothing is: the guest gets its bus error, and
//! EL2 goes on.

use core::arch::asm;

use super::Tally;
use super::drivers::{Check, check};
use super::start::aborts_at;

/// Where the tree says that a DART and the NVMe are: see `oche_m1_sim::tree`.
const DART: u64 = 0x0b00_0000;
const NVME: u64 = 0x0b10_0000;
/// Registers of the NVMe that trap: one that no driver writes, and a word of the page of doorbells.
const NVME_STATUS: u64 = 0x1c;
const NVME_DOORBELLS: u64 = 0x2_4f00;

pub(super) fn run(tally: &mut Tally) {
    tally.case(format_args!("a DART where nothing answers"), dart());
    for (name, at) in [("registers", NVME + NVME_STATUS), ("doorbells", NVME + NVME_DOORBELLS)] {
        tally.case(format_args!("an NVMe where nothing answers: {name}, loads"), loads(at));
        tally.case(format_args!("an NVMe where nothing answers: {name}, stores"), stores(at));
    }
}

fn dart() -> Check {
    // The first finds it out, the others know.
    (0..3).try_for_each(|_| {
        loads_of_32_bits(DART)?;
        stores_of_32_bits(DART + 0x60)
    })
}

fn loads(at: u64) -> Check {
    loads_of_32_bits(at)?;
    let wide = at & !7;
    // SAFETY: the exception is expected.
    let load = || unsafe { asm!("ldr xzr, [{}]", in(reg) wide, options(nostack)) };
    check(aborts_at(wide, false, load), "a load of 64 bits does not abort")
}

fn stores(at: u64) -> Check {
    stores_of_32_bits(at)?;
    let wide = at & !7;
    // SAFETY: the exception is expected.
    let store = || unsafe { asm!("str xzr, [{}]", in(reg) wide, options(nostack)) };
    check(aborts_at(wide, true, store), "a store of 64 bits does not abort")
}

fn loads_of_32_bits(at: u64) -> Check {
    // SAFETY: the exception is expected.
    let load = || unsafe { asm!("ldr wzr, [{}]", in(reg) at, options(nostack)) };
    check(aborts_at(at, false, load), "a load of 32 bits does not abort")
}

fn stores_of_32_bits(at: u64) -> Check {
    // SAFETY: the exception is expected.
    let store = || unsafe { asm!("str wzr, [{}]", in(reg) at, options(nostack)) };
    check(aborts_at(at, true, store), "a store of 32 bits does not abort")
}
