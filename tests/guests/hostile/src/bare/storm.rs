//! Random words into every register of both DARTs, from several CPUs at once: Oche must keep
//! running.

use oche_guest_common::exception::attempt;
use oche_guest_common::mmio::{read32, write32};
use oche_guest_common::{CaseReport, Random};

use super::board::{DART, DART_BYTES};
use super::cpus::{HELPERS, with_helpers};

/// Accesses of each CPU.
const ACCESSES: u32 = 20_000;

pub(super) fn run(report: &mut CaseReport) {
    access_randomly(0);
    report.case(format_args!("storm of one CPU"), Ok(()));
    let result = with_helpers(access_randomly, || {
        access_randomly(HELPERS + 1);
        Ok(())
    });
    report.case(format_args!("storm of {} CPUs", HELPERS + 1), result);
}

/// Accesses registers, most often the important ones: commands, selection, enables, TCR and TTBR.
fn access_randomly(seed: u64) {
    let mut random = Random(seed);
    for _ in 0..ACCESSES {
        let (choice, value) = (random.next(), random.next());
        let offset = match choice & 7 {
            0 => 0x20,
            1 => 0x34,
            2 => 0x40,
            3 => 0x100 + (choice >> 8 & 15) * 4,
            4 | 5 => 0x200 + (choice >> 8 & 63) * 4,
            6 => choice >> 8 & 0x1ffc,
            _ => choice >> 8 & 0x3ffc,
        };
        let register = DART + (choice >> 40 & 1) * DART_BYTES + offset;
        attempt(|| match choice >> 41 & 3 {
            0 => _ = read32(register),
            _ => write32(register, register_value(value) as u32),
        });
    }
}

/// A value for a register: valid, and a table in the first GiB of RAM; or anything.
pub(super) fn register_value(value: u64) -> u64 {
    if value >> 63 == 0 { 1 << 31 | 0x4_0000 | value & 0x3_ffff } else { value }
}
