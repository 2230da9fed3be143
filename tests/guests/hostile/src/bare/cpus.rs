//! The other CPUs: each is started for one task and turns itself off behind it.

use core::arch::asm;
use core::mem;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use oche_guest_common::smccc::{AFFINITY_INFO, CPU_OFF, CPU_ON, smc};
use oche_guest_common::{Check, check, entry};

/// CPUs that help the first.
pub(super) const HELPERS: u64 = 3;
/// `AFFINITY_INFO`: the CPU is off.
const IS_OFF: i64 = 1;
/// Polls before a CPU counts as lost.
const MAX_POLLS: u32 = 50_000_000;

/// What a CPU does, given its number.
type Task = fn(u64);

static TASK: AtomicPtr<()> = AtomicPtr::new(do_nothing as *mut ());
static VISITS: AtomicU32 = AtomicU32::new(0);
static FINISHED: AtomicU32 = AtomicU32::new(0);
static IS_OVER: AtomicBool = AtomicBool::new(false);

fn do_nothing(_: u64) {}

/// Runs on another CPU, with its MMU on. `number` is the context that `CPU_ON` was given.
pub(super) fn work(number: u64) -> ! {
    VISITS.fetch_add(1, Ordering::SeqCst);
    let task = TASK.load(Ordering::SeqCst);
    // SAFETY: only functions of this type are ever stored there.
    let task = unsafe { mem::transmute::<*mut (), Task>(task) };
    task(number);
    FINISHED.fetch_add(1, Ordering::SeqCst);
    loop {
        smc([CPU_OFF, 0, 0, 0]);
    }
}

/// Runs `work` while all other CPUs carry out `task`. A task without an end of its own ends when
/// [`is_over`].
pub(super) fn with_helpers(task: Task, work: impl FnOnce() -> Check) -> Check {
    IS_OVER.store(false, Ordering::SeqCst);
    FINISHED.store(0, Ordering::SeqCst);
    TASK.store(task as *mut (), Ordering::SeqCst);
    let started = (1..=HELPERS).filter(|cpu| start(*cpu) == 0).count() as u64;
    let result = work();
    IS_OVER.store(true, Ordering::SeqCst);
    let are_off = (1..=HELPERS).all(|cpu| wait_until_off(cpu).is_ok());
    TASK.store(do_nothing as *mut (), Ordering::SeqCst);
    check(started == HELPERS, "a CPU did not start")?;
    let are_finished = u64::from(FINISHED.load(Ordering::SeqCst)) == HELPERS;
    check(are_off && are_finished, "a CPU did not come back")?;
    result
}

/// Whether the first CPU has done its part.
pub(super) fn is_over() -> bool {
    IS_OVER.load(Ordering::SeqCst)
}

/// How often another CPU has come.
pub(super) fn visits() -> u32 {
    VISITS.load(Ordering::SeqCst)
}

/// Starts a CPU. Returns PSCI's answer.
pub(super) fn start(cpu: u64) -> i64 {
    smc([CPU_ON, cpu, entry::secondary(), cpu])
}

/// Waits until a CPU is off.
pub(super) fn wait_until_off(cpu: u64) -> Check {
    wait(|| smc([AFFINITY_INFO, cpu, 0, 0]) == IS_OFF)
}

/// Waits for another CPU.
pub(super) fn wait(is_done: impl Fn() -> bool) -> Check {
    let poll = || {
        let is_done = is_done();
        yield_cpu();
        is_done
    };
    check((0..MAX_POLLS).any(|_| poll()), "the other CPU did not do its part")
}

/// Lets other CPUs run: with `-icount` QEMU runs one at a time, and each for long.
pub(super) fn yield_cpu() {
    // SAFETY: a hint.
    unsafe { asm!("yield", options(nostack)) };
}
