//! Devices that the device tree names and at whose addresses nothing answers: the guest takes the
//! external abort, and EL2 keeps running.

use core::arch::asm;

use oche_guest_common::exception::attempt;
use oche_guest_common::{CaseReport, Check, check, mmio};

/// Where the device tree has a DART and the NVMe: see `oche_m1_sim::tree`.
const DART: u64 = 0x0b00_0000;
const NVME: u64 = 0x0b10_0000;
/// Registers of the NVMe that trap: one that no driver writes, and a word of the page of doorbells.
const NVME_STATUS: u64 = 0x1c;
const NVME_DOORBELLS: u64 = 0x2_4f00;

pub(super) fn run(report: &mut CaseReport) {
    report.case(format_args!("a DART where nothing answers"), dart());
    for (name, at) in [("registers", NVME + NVME_STATUS), ("doorbells", NVME + NVME_DOORBELLS)] {
        report.case(format_args!("an NVMe where nothing answers: {name}, loads"), loads(at));
        report.case(format_args!("an NVMe where nothing answers: {name}, stores"), stores(at));
    }
}

fn dart() -> Check {
    // The first access makes Oche find out; the others rely on that.
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
    aborts(wide, false, load, "a load of 64 bits does not abort")
}

fn stores(at: u64) -> Check {
    stores_of_32_bits(at)?;
    let wide = at & !7;
    // SAFETY: the exception is expected.
    let store = || unsafe { asm!("str xzr, [{}]", in(reg) wide, options(nostack)) };
    aborts(wide, true, store, "a store of 64 bits does not abort")
}

fn loads_of_32_bits(at: u64) -> Check {
    aborts(at, false, || _ = mmio::read32(at), "a load of 32 bits does not abort")
}

fn stores_of_32_bits(at: u64) -> Check {
    aborts(at, true, || mmio::write32(at, 0), "a store of 32 bits does not abort")
}

fn aborts(at: u64, is_write: bool, access: impl FnOnce(), reason: &'static str) -> Check {
    let exception = attempt(access);
    check(exception.is_some_and(|one| one.is_external_abort_at(at, is_write)), reason)
}
