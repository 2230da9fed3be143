//! Wild firmware calls: an error code, and Oche stays up.

use core::sync::atomic::{AtomicU32, Ordering};

use super::Tally;
use super::access::DART;
use super::firmware::{hypervisor_call, monitor_call};
use super::start::secondary_entry;
use super::storm::Random;
use super::tree::HOLES;

// Source of ids and codes: Arm DEN 0022 (PSCI).
const CPU_ON_64: u64 = 0xc400_0003;
const CPU_OFF: u64 = 0x8400_0002;
const AFFINITY_INFO_64: u64 = 0xc400_0004;
const NOT_SUPPORTED: i64 = -1;
const INVALID_PARAMETERS: i64 = -2;
const ALREADY_ON: i64 = -4;
const ON_PENDING: i64 = -5;
const INVALID_ADDRESS: i64 = -9;
/// `AFFINITY_INFO`: the CPU is off.
const IS_OFF: i64 = 1;
/// Looks before a CPU counts as dead.
const PATIENCE: u32 = 50_000_000;

static VISITS: AtomicU32 = AtomicU32::new(0);
/// [`TASK`]: other CPUs go to the storm; they count in a trapped page.
pub(super) const STORM: u32 = 1;
pub(super) const COUNT: u32 = 2;
/// They use a page in motion; change tables while they are read; flush without end.
pub(super) const MOTION: u32 = 3;
pub(super) const SCRIBBLE: u32 = 4;
pub(super) const FLOOD: u32 = 5;
/// They replace an instruction of a program; change the mapping of a page that a program stores to.
pub(super) const PATCH: u32 = 6;
pub(super) const REMAP: u32 = 7;
/// They execute random instructions.
pub(super) const RANDOM: u32 = 16;
/// What other CPUs do when they come: 0 leave at once.
pub(super) static TASK: AtomicU32 = AtomicU32::new(0);

/// Another CPU, with its MMU on. `number` is what `CPU_ON` was given as its context.
#[unsafe(no_mangle)]
extern "C" fn guest_secondary(number: u64) -> ! {
    VISITS.fetch_add(1, Ordering::SeqCst);
    match TASK.load(Ordering::SeqCst) {
        STORM => super::storm::join(number),
        COUNT => super::guarded::join(number),
        MOTION => super::motion::join(number),
        SCRIBBLE => super::attacks::scribble(number),
        FLOOD => super::attacks::flood(),
        RANDOM => super::random::join(number),
        PATCH => super::races::patch(number),
        REMAP => super::races::remap(number),
        _ => {}
    }
    loop {
        monitor_call([CPU_OFF, 0, 0, 0]);
    }
}

pub(super) fn run(tally: &mut Tally, holes: &[u64; HOLES]) {
    let entry = secondary_entry();
    let entries = [0, 0x0900_0000, DART, entry + 2, u64::MAX, u64::MAX - 3, 1 << 52 | entry];
    for address in entries.into_iter().chain(holes.iter().copied().filter(|hole| *hole != 0)) {
        let answer = monitor_call([CPU_ON_64, 1, address, 0]);
        tally.case(format_args!("CPU_ON at {address:#x}"), expect(answer, &[INVALID_ADDRESS]));
    }
    for target in [0x77, 1 << 31, 1 << 40 | 1, u64::MAX, u64::MAX >> 24] {
        let answer = monitor_call([CPU_ON_64, target, entry, 0]);
        tally.case(format_args!("CPU_ON of {target:#x}"), expect(answer, &[INVALID_PARAMETERS]));
    }
    let answer = monitor_call([CPU_ON_64, 0, entry, 0]);
    tally.case(format_args!("CPU_ON of itself"), expect(answer, &[ALREADY_ON]));
    for round in 0..4 {
        tally.case(format_args!("CPU_ON, twice, and CPU_OFF: round {round}"), on_twice(entry));
    }
    for (name, call) in [("SMC", monitor_call as fn([u64; 4]) -> i64), ("HVC", hypervisor_call)] {
        tally.case(format_args!("{name} with ids that nobody has"), wild_ids(call));
    }
    let kept = hypervisor_call([0x8400_0008, 0, 0, 0]);
    tally.case(format_args!("SYSTEM_OFF by HVC"), expect(kept, &[NOT_SUPPORTED]));
}

fn on_twice(entry: u64) -> Result<(), &'static str> {
    let before = VISITS.load(Ordering::SeqCst);
    expect(monitor_call([CPU_ON_64, 1, entry, 1]), &[0])?;
    // It may have come and gone by now.
    expect(monitor_call([CPU_ON_64, 1, entry, 1]), &[0, ALREADY_ON, ON_PENDING])?;
    wait(|| VISITS.load(Ordering::SeqCst) != before)?;
    wait_until_off(1)
}

/// Waits until a CPU is off.
pub(super) fn wait_until_off(cpu: u64) -> Result<(), &'static str> {
    wait(|| monitor_call([AFFINITY_INFO_64, cpu, 0, 0]) == IS_OFF)
}

/// Starts a CPU.
pub(super) fn start(cpu: u64) -> Result<(), &'static str> {
    expect(monitor_call([CPU_ON_64, cpu, secondary_entry(), cpu]), &[0])
}

fn wait(is_done: impl Fn() -> bool) -> Result<(), &'static str> {
    (0..PATIENCE).any(|_| is_done()).then_some(()).ok_or("the other CPU did not do its part")
}

/// Ids from all ranges but PSCI's and SMCCC's own, and PSCI's that Oche keeps back.
fn wild_ids(call: fn([u64; 4]) -> i64) -> Result<(), &'static str> {
    let mut random = Random(7);
    let kept_back =
        [0xc400_0001, 0x8400_0001, 0xc400_0005, 0xc400_000e, 0xc400_0012, 0x8400_0050, 0x8400_ffff];
    let any = core::iter::repeat_with(|| random.next()).take(2000);
    for id in any.filter(|id| !matches!(id >> 24 & 0xff, 0x80 | 0x84 | 0xc4)).chain(kept_back) {
        expect(call([id, id, id, id]), &[NOT_SUPPORTED])?;
    }
    Ok(())
}

fn expect(answer: i64, allowed: &[i64]) -> Result<(), &'static str> {
    // A 32-bit answer need not be extended.
    if allowed.iter().any(|one| *one as i32 == answer as i32) {
        Ok(())
    } else {
        Err("another answer")
    }
}
