//! This CPU's counter of the instructions that EL2 executes on it.
//!
//! Source: Arm ARM DDI 0487, D13 "The Performance Monitors Extension", `PMEVTYPER<n>_EL0`; event 8
//! is `INST_RETIRED`.

use core::arch::asm;

/// Instructions at EL2 of `turns` turns.
pub(super) fn sum_of(turns: u32, mut exit: impl FnMut()) -> u32 {
    let before = hypervisor_instructions();
    (0..turns).for_each(|_| exit());
    hypervisor_instructions().wrapping_sub(before)
}

/// Instructions at EL2 of the cheapest turn, one that does not wait for a lock. `before` is called
/// before each turn and does not count.
pub(super) fn least_of(turns: u32, before: impl Fn(), exit: impl Fn()) -> u32 {
    let turn = || {
        before();
        sum_of(1, &exit)
    };
    (0..turns).map(|_| turn()).min().unwrap_or(0)
}

/// Has this CPU's first counter count instructions at EL2, and no others.
pub(super) fn count_hypervisor() {
    // P and U leave EL1 and EL0 out, NSH takes EL2 in.
    let event: u64 = 8 | 1 << 31 | 1 << 30 | 1 << 27;
    // SAFETY: registers of the counters, which nothing else uses.
    unsafe {
        asm!(
            "msr pmevtyper0_el0, {event}",
            "msr pmcntenset_el0, {one}",
            "msr pmcr_el0, {one}",
            "isb",
            event = in(reg) event,
            one = in(reg) 1u64,
            options(nostack)
        );
    }
}

fn hypervisor_instructions() -> u32 {
    let count: u64;
    // SAFETY: reads a counter.
    unsafe { asm!("isb", "mrs {}, pmevcntr0_el0", out(reg) count, options(nostack)) };
    count as u32
}
