//! Invalid PSCI and SMCCC calls: each returns an error code, and Oche keeps running.
//! Source of identifiers and codes: Arm DEN 0022 (PSCI).

use oche_guest_common::smccc::{CPU_ON, SYSTEM_OFF, hvc, smc};
use oche_guest_common::{CaseReport, Check, Random, check, entry};

use super::board::{DART, Hidden, UART};
use super::cpus;

const SUCCESS: i64 = 0;
const NOT_SUPPORTED: i64 = -1;
const INVALID_PARAMETERS: i64 = -2;
const ALREADY_ON: i64 = -4;
const ON_PENDING: i64 = -5;
const INVALID_ADDRESS: i64 = -9;

pub(super) fn run(report: &mut CaseReport, hidden: Hidden) {
    let entry = entry::secondary();
    let entries = [0, UART, DART, entry + 2, u64::MAX, u64::MAX - 3, 1 << 52 | entry];
    for address in entries.into_iter().chain(hidden.iter()) {
        let answer = smc([CPU_ON, 1, address, 0]);
        report.case(format_args!("CPU_ON at {address:#x}"), expect(answer, &[INVALID_ADDRESS]));
    }
    for target in [0x77, 1 << 31, 1 << 40 | 1, u64::MAX, u64::MAX >> 24] {
        let answer = smc([CPU_ON, target, entry, 0]);
        report.case(format_args!("CPU_ON of {target:#x}"), expect(answer, &[INVALID_PARAMETERS]));
    }
    let answer = smc([CPU_ON, 0, entry, 0]);
    report.case(format_args!("CPU_ON of itself"), expect(answer, &[ALREADY_ON]));
    for round in 0..4 {
        report.case(format_args!("CPU_ON, twice, and CPU_OFF: round {round}"), on_twice(entry));
    }
    for (name, call) in [("SMC", smc as fn([u64; 4]) -> i64), ("HVC", hvc)] {
        report.case(format_args!("{name} with unknown function identifiers"), wild_ids(call));
    }
    let kept = hvc([SYSTEM_OFF, 0, 0, 0]);
    report.case(format_args!("SYSTEM_OFF by HVC"), expect(kept, &[NOT_SUPPORTED]));
}

fn on_twice(entry: u64) -> Check {
    let before = cpus::visits();
    expect(smc([CPU_ON, 1, entry, 1]), &[SUCCESS])?;
    // It may have turned itself off again by now.
    expect(smc([CPU_ON, 1, entry, 1]), &[SUCCESS, ALREADY_ON, ON_PENDING])?;
    cpus::wait(|| cpus::visits() != before)?;
    cpus::wait_until_off(1)
}

/// Identifiers from all ranges but PSCI's and SMCCC's own, and functions of PSCI that Oche does not
/// offer.
fn wild_ids(call: fn([u64; 4]) -> i64) -> Check {
    let mut random = Random(7);
    let not_offered =
        [0xc400_0001, 0x8400_0001, 0xc400_0005, 0xc400_000e, 0xc400_0012, 0x8400_0050, 0x8400_ffff];
    let any = core::iter::repeat_with(|| random.next()).take(2000);
    for id in any.filter(|id| !matches!(id >> 24 & 0xff, 0x80 | 0x84 | 0xc4)).chain(not_offered) {
        expect(call([id, id, id, id]), &[NOT_SUPPORTED])?;
    }
    Ok(())
}

fn expect(answer: i64, allowed: &[i64]) -> Check {
    // A 32-bit answer need not be extended.
    check(allowed.iter().any(|one| *one as i32 == answer as i32), "another answer")
}
