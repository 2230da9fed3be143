//! A page that moves while other CPUs read, write, execute and count in it.
//!
//! One CPU maps it for the device and unmaps it again, each of which moves it; with QEMU's threads
//! for each CPU the others meet it in every state.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::edu::STREAM;
use super::exception::attempt;
use super::forms::increment;
use super::mapping::{self, Rights};
use super::{Pages, Tally, calls};

/// Times that the page goes and comes back.
const ROUNDS: usize = 300;
const HELPERS: u64 = 3;
/// Byte offsets: the word that all count in, and each CPU's own.
const SHARED: u64 = 0x400;
const OWN: u64 = 0x800;

static PAGE: Pages<1> = Pages::new();
static IS_OVER: AtomicBool = AtomicBool::new(false);
static COUNTS: AtomicU64 = AtomicU64::new(0);
static LOST: AtomicU32 = AtomicU32::new(0);
static DONE: AtomicU32 = AtomicU32::new(0);

pub(super) fn run(tally: &mut Tally) {
    // mov x0, #42; ret
    PAGE.set_word(0, 0xd65f_03c0_d280_0540);
    calls::TASK.store(calls::MOTION, Ordering::SeqCst);
    mapping::begin(STREAM);
    let started = (1..=HELPERS).filter(|cpu| calls::start(*cpu).is_ok()).count() as u32;
    for round in 0..ROUNDS {
        let rights = if round % 3 == 0 { Rights::Read } else { Rights::ReadWrite };
        let iova = 0x40 + round % 7;
        mapping::set(STREAM, iova, Some((PAGE.address(), rights)));
        mapping::set(STREAM, iova, None);
    }
    IS_OVER.store(true, Ordering::SeqCst);
    let ended = (1..=HELPERS).all(|cpu| calls::wait_until_off(cpu).is_ok());
    mapping::end(STREAM);
    let are_back = ended && u64::from(started) == HELPERS && DONE.load(Ordering::SeqCst) == started;
    tally.case(
        format_args!("a page in motion: three CPUs use it"),
        are_back.then_some(()).ok_or("a CPU did not come back"),
    );
    let is_kept = LOST.load(Ordering::SeqCst) == 0;
    tally.case(
        format_args!("a page in motion: loads, stores and fetches"),
        is_kept.then_some(()).ok_or("something is lost"),
    );
    let count = PAGE.word(SHARED as usize / 8);
    let is_whole = count == COUNTS.load(Ordering::SeqCst) && count != 0;
    tally.case(
        format_args!("a page in motion: atomics and exclusives"),
        is_whole.then_some(()).ok_or("counts are lost"),
    );
}

/// Another CPU's part.
pub(super) fn join(number: u64) {
    let own = (OWN / 8 + number) as usize;
    let mut rounds = 0;
    let mut lost = 0;
    while !IS_OVER.load(Ordering::SeqCst) {
        rounds += 1;
        increment(PAGE.address() + SHARED, 1, number & 1 == 0);
        PAGE.set_word(own, rounds);
        lost += u32::from(call() != 42);
        lost += u32::from(PAGE.word(own) != rounds);
    }
    COUNTS.fetch_add(rounds, Ordering::SeqCst);
    LOST.fetch_add(lost, Ordering::SeqCst);
    DONE.fetch_add(1, Ordering::SeqCst);
}

/// What the function in the page gives.
fn call() -> u64 {
    let mut result = 0;
    let exception = attempt(|| {
        // SAFETY: the two instructions that `run` stored before this CPU was started; its caches
        // were empty then.
        unsafe {
            asm!("isb", "blr {}", in(reg) PAGE.address(), lateout("x0") result, clobber_abi("C"), options(nostack))
        };
    });
    if exception.is_some() { 0 } else { result }
}
