//! FIQ cases: each timer tick and each IPI is taken once, and no FIQ outlives its source.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use oche_guest_common::{CaseReport, Check, check, print};

use super::arena::{self, page};
use super::dart::Dart;
use super::interrupts::{
    TICK_MICROSECONDS, arm_physical, arm_virtual, counts, is_virtual_asserted, mask, pass,
    poll_ipis, send_ipi, stop_ticking, wait, wait_for_interrupt,
};
use super::tables::{IOVA, READ_WRITE, attach, set, tables};

/// Rounds of each case.
const ROUNDS: u64 = 40;
/// Accesses that are stepped.
const STEPS: u64 = 3000;
/// A FIQ that does not come for so long has ended: Oche polls each 50 us, and QEMU may be late.
const QUIET_MICROSECONDS: u64 = 10_000;

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::SeqCst)
}

pub(super) fn run(report: &mut CaseReport, cpus: &[usize]) {
    let own = counts(0);
    report.case(
        format_args!("each tick of the virtual timer is a FIQ"),
        ticks(&own.virtual_ticks, || arm_virtual(TICK_MICROSECONDS)),
    );
    report.case(
        format_args!("each tick of the physical timer is a FIQ"),
        ticks(&own.physical_ticks, || arm_physical(TICK_MICROSECONDS)),
    );
    report.case(format_args!("both timers at once"), both());
    report.case(format_args!("a masked FIQ wakes the CPU and stays pending"), masked());
    poll_ipis(false);
    report.case(format_args!("a FIQ ends with its source"), ends());
    poll_ipis(true);
    report.case(format_args!("each IPI to itself is a FIQ"), ticks(&own.ipis, || send_ipi(1)));
    for cpu in cpus {
        report.case(format_args!("IPIs to cpu {cpu:#x}, and its ticks"), other(*cpu));
    }
}

/// Each source that `ask` raises is taken exactly once.
fn ticks(counter: &AtomicU64, ask: impl Fn()) -> Check {
    mask(false);
    let result = (0..ROUNDS).try_for_each(|_| {
        let before = load(counter);
        ask();
        check(wait(|| load(counter) != before), "it does not come")?;
        pass(20);
        check(load(counter) == before + 1, "it comes more than once")
    });
    mask(true);
    result
}

fn both() -> Check {
    let own = counts(0);
    mask(false);
    let result = (0..ROUNDS).try_for_each(|round| {
        let before = (load(&own.virtual_ticks), load(&own.physical_ticks));
        arm_virtual(30 + round * 5);
        arm_physical(230 - round * 5);
        let came =
            wait(|| load(&own.virtual_ticks) != before.0 && load(&own.physical_ticks) != before.1);
        check(came, "one of them does not come")?;
        let are_once =
            load(&own.virtual_ticks) == before.0 + 1 && load(&own.physical_ticks) == before.1 + 1;
        check(are_once, "one of them comes twice")
    });
    mask(true);
    result
}

/// A FIQ that `PSTATE.F` masks ends WFI and is not taken; once unmasked, it is taken.
fn masked() -> Check {
    let own = counts(0);
    mask(true);
    for _ in 0..ROUNDS {
        let before = load(&own.virtual_ticks);
        arm_virtual(TICK_MICROSECONDS);
        while !is_virtual_asserted() {
            wait_for_interrupt();
        }
        pass(30);
        check(load(&own.virtual_ticks) == before, "it is taken though it is masked")?;
        mask(false);
        let came = wait(|| load(&own.virtual_ticks) == before + 1);
        mask(true);
        check(came, "it does not come")?;
    }
    Ok(())
}

/// After the timer's tick no FIQ stays pending, although nothing that the handler does traps.
fn ends() -> Check {
    let own = counts(0);
    mask(false);
    let before = load(&own.virtual_ticks);
    arm_virtual(TICK_MICROSECONDS);
    let came = wait(|| load(&own.virtual_ticks) == before + 1);
    let ends = wait(|| {
        let idle = load(&own.spurious);
        pass(QUIET_MICROSECONDS);
        load(&own.spurious) == idle
    });
    mask(true);
    check(came, "it does not come")?;
    check(ends, "it stays pending")
}

/// IPIs to another CPU, which arms its own timer for each.
fn other(cpu: usize) -> Check {
    let seen = counts(cpu);
    for _ in 0..ROUNDS / 4 {
        let before = (load(&seen.ipis), load(&seen.virtual_ticks));
        send_ipi(1 << cpu);
        check(wait(|| load(&seen.ipis) == before.0 + 1), "the IPI does not come")?;
        check(wait(|| load(&seen.virtual_ticks) == before.1 + 1), "its timer tick does not come")?;
    }
    Ok(())
}

/// Each atomic access to a page with two copies is single-stepped by EL2, and the timer ticks
/// between the steps.
pub(super) fn stepped(dart: Dart) -> Check {
    dart.reset()?;
    let (root, leaves) = tables(0);
    let own = page(33);
    arena::store(own, 0);
    set(leaves, IOVA + 0x1000, own | READ_WRITE);
    set(leaves, IOVA + 0x4000, own | READ_WRITE);
    attach(dart, 1, root);
    dart.flush(2)?;
    let ticks = load(&counts(0).virtual_ticks);
    for _ in 0..STEPS {
        // SAFETY: a word of the arena, which is in use here alone.
        unsafe {
            asm!(".arch_extension lse", "stadd {one}, [{at}]", ".arch_extension nolse", one = in(reg) 1_u64,
                at = in(reg) own, options(nostack))
        };
    }
    let has_ticked = load(&counts(0).virtual_ticks) > ticks;
    check(arena::load(own) == STEPS, "an atomic access is lost, or done twice")?;
    check(has_ticked, "no tick comes between steps")?;
    dart.reset()?;
    check(arena::load(own) == STEPS, "the page at home")
}

/// Stops the first CPU's periodic tick. It must have come all the time.
pub(super) fn end_background(report: &mut CaseReport) {
    let own = counts(0);
    let before = load(&own.virtual_ticks);
    let ticks_on = before > 3 * ROUNDS && wait(|| load(&own.virtual_ticks) > before + 3);
    stop_ticking();
    report.case(format_args!("the timer ticked through all of it"), check(ticks_on, "it stopped"));
    print(format_args!(
        "guest: {} ticks, {} FIQs without a source\n",
        load(&own.virtual_ticks),
        load(&own.spurious)
    ));
}
