//! Random words into every register of both DARTs, from several CPUs at once: nothing but Oche's
//! being alive is asked.

use core::sync::atomic::{AtomicU32, Ordering};

use super::Tally;
use super::access::DART;
use super::calls;
use super::exception::attempt;

/// Accesses of each CPU.
const ACCESSES: u32 = 20_000;
/// Other CPUs.
const HELPERS: u64 = 3;

static DONE: AtomicU32 = AtomicU32::new(0);

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }
}

pub(super) fn run(tally: &mut Tally) {
    rage(0);
    tally.case(format_args!("storm of one CPU"), Ok(()));
    calls::TASK.store(calls::STORM, Ordering::SeqCst);
    let started = (1..=HELPERS).filter(|cpu| calls::start(*cpu).is_ok()).count() as u32;
    rage(HELPERS + 1);
    let ended = (1..=HELPERS).all(|cpu| calls::wait_until_off(cpu).is_ok());
    let all = ended && DONE.load(Ordering::SeqCst) == started && started != 0;
    tally.case(
        format_args!("storm of {} CPUs", started + 1),
        if all { Ok(()) } else { Err("a CPU did not come back") },
    );
}

/// Another CPU's part.
pub(super) fn join(number: u64) {
    rage(number);
    DONE.fetch_add(1, Ordering::SeqCst);
}

/// Registers that matter get most: commands, selection, enables, TCR and TTBR. Values are wild, or
/// name RAM.
fn rage(seed: u64) {
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
        let register = (DART + (choice >> 40 & 1) * 0x4000 + offset) as *mut u32;
        // Valid, and a table in the first GiB of RAM; or anything.
        let word =
            if value >> 63 == 0 { 1 << 31 | 0x4_0000 | value & 0x3_ffff } else { value } as u32;
        attempt(|| {
            // SAFETY: a register of a DART, or an abort that is stepped over.
            if choice >> 41 & 3 == 0 {
                // SAFETY: the same.
                unsafe { register.read_volatile() };
            } else {
                // SAFETY: the same.
                unsafe { register.write_volatile(word) };
            }
        });
    }
}
