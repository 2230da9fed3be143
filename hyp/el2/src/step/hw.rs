//! Stepping: this CPU executes one instruction of the guest, in a view of stage 2, and returns to
//! EL2.
//!
//! It uses software step, routed to EL2 (`MDCR_EL2.TDE`), and saves and restores the guest's debug
//! state. Interrupts are masked for the one instruction, and FIQs are routed to EL1 meanwhile, so
//! that no exception comes first.
//!
//! Another CPU may replace the instruction by any other meanwhile. The step must end anyway, with
//! the guest in a state that it could have reached without the step:
//! - The instruction cannot wait: WFI and WFE trap.
//! - It cannot disable the step: with `MDCR_EL2.TDE` set, TDA, TDOSA and TDRA are treated as set,
//!   so accesses to `MDSCR_EL1`, `OSLAR_EL1` and `OSDLR_EL1` trap and are executed again without
//!   the step. The OS lock and the double lock are open from the start.
//! - An exception to EL1 is detected by its level or, from EL1, by `ELR_EL1`, which during the step
//!   holds a value that no exception stores there.
//! - An `ERET` at EL1 takes its address from there too, and its masks from `SPSR_EL1`, in which all
//!   are set during the step. So no interrupt is taken after it, whose return address would look
//!   like that of the `ERET`.
//! - An instruction that reads or writes the masks at EL1 has another result than without the step.
//!   This can happen only if another CPU replaces the instruction while it is executed, which the
//!   architecture defines for a few instructions only, none of which accesses the masks (Arm ARM
//!   DDI 0487, "Concurrent modification and execution of instructions"). EL0 has no access to the
//!   masks.
//!
//! Source: Arm ARM DDI 0487, "Software Step exceptions", D2.11 in issue J, and `MDCR_EL2`,
//! `MDSCR_EL1`, `OSLAR_EL1`, `OSDLR_EL1`.

use core::sync::atomic::Ordering;

use aarch64_cpu::registers::{HCR_EL2, MDCR_EL2, MDSCR_EL1, OSLAR_EL1, Readable, Writeable};

use crate::frame::{SPSR_SS, TrapFrame};
use crate::registers::{
    ElrEl12, HCR_FMO, HCR_VF, OsdlrEl1, OslsrEl1, SpsrEl12, synchronize_context,
};
use crate::stage2::maintenance::Maintenance as _;
use crate::step::{self, StepOutcome, StepState, sentinel};
use crate::tlb::Cpus;
use crate::{features, guest, percpu};

/// `PSTATE.{A, I, F}`, in AArch32 as in AArch64.
const SPSR_AIF: u64 = 0x7 << 6;
/// The exception level; 0 for EL0, also in AArch32's User mode.
const SPSR_LEVEL: u64 = 3 << 2;
/// `MDSCR_EL1.SS`.
const MDSCR_SS: u64 = MDSCR_EL1::SS::SET.value;
/// `MDSCR_EL1.KDE` and `.MDE`: breakpoints and watchpoints, and debug exceptions at EL2 itself.
const MDSCR_KDE_MDE: u64 = MDSCR_EL1::KDE::SET.value | MDSCR_EL1::MDE::SET.value;
/// `MDCR_EL2.TDE`.
const MDCR_TDE: u64 = MDCR_EL2::TDE::SET.value;
/// `HCR_EL2.{FMO, VF}`: EL1's masks do not apply to a FIQ that is routed to EL2.
const HCR_FIQS: u64 = HCR_FMO | HCR_VF;
/// `HCR_EL2.{TWI, TWE}`.
const HCR_WAITS: u64 = 1 << 13 | 1 << 14;
/// `OSLSR_EL1.OSLK`.
const OSLSR_LOCKED: u64 = 1 << 1;
/// `OSDLR_EL1.DLK`.
const OSDLR_LOCKED: u64 = 1;

/// The guest's debug state that a step saves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SavedDebugState {
    spsr: u64,
    elr: u64,
    mdscr: u64,
    mdcr: u64,
    hcr: u64,
    was_locked: bool,
    was_double_locked: bool,
    /// For a step at EL1: `ELR_EL1`, which holds [`sentinel`] meanwhile, and `SPSR_EL1`, whose
    /// masks are set meanwhile.
    elr_el1: u64,
    spsr_el1: u64,
    has_view: bool,
}

impl SavedDebugState {
    fn is_kernel(&self) -> bool {
        level(self.spsr) != 0
    }
}

/// Whether the guest single-steps itself.
pub(crate) fn is_guest_stepping() -> bool {
    MDSCR_EL1.is_set(MDSCR_EL1::SS)
}

/// Prepares this CPU so that the return to `frame` executes one instruction, in the view at `root`
/// if there is one.
pub(crate) fn arm(frame: &mut TrapFrame, root: Option<u64>) -> SavedDebugState {
    let debug_state = SavedDebugState {
        spsr: frame.spsr,
        elr: frame.elr,
        mdscr: MDSCR_EL1.get(),
        mdcr: MDCR_EL2.get(),
        hcr: HCR_EL2.get(),
        was_locked: OslsrEl1.read() & OSLSR_LOCKED != 0,
        was_double_locked: features::has_double_lock() && OsdlrEl1.read() & OSDLR_LOCKED != 0,
        elr_el1: ElrEl12.read(),
        spsr_el1: SpsrEl12.read(),
        has_view: root.is_some(),
    };
    MDSCR_EL1.set(debug_state.mdscr & !MDSCR_KDE_MDE | MDSCR_SS);
    MDCR_EL2.set(debug_state.mdcr | MDCR_TDE);
    if debug_state.was_locked {
        // While the OS lock is closed, no software step exception is taken.
        OSLAR_EL1.write(OSLAR_EL1::OSLK::Unlocked);
    }
    if debug_state.was_double_locked {
        OsdlrEl1.write(0);
    }
    if debug_state.is_kernel() {
        ElrEl12.write(sentinel(debug_state.elr));
        SpsrEl12.write(debug_state.spsr_el1 | SPSR_AIF);
    }
    HCR_EL2.set(debug_state.hcr & !HCR_FIQS | HCR_WAITS);
    frame.spsr |= SPSR_SS | SPSR_AIF;
    if let Some(root) = root {
        Cpus.enter_view(root);
    }
    // The exception return synchronizes the context too, but only after it has decided whether to
    // copy SPSR_EL2.SS.
    synchronize_context();
    percpu::this().is_stepping.store(true, Ordering::Relaxed);
    debug_state
}

/// Restores the saved state after any exception from the guest in a step. `is_done` says whether
/// the instruction is complete or has taken an exception to EL1. Returns whether it is complete.
pub(crate) fn disarm(frame: &mut TrapFrame, debug_state: &SavedDebugState, is_done: bool) -> bool {
    percpu::this().is_stepping.store(false, Ordering::Relaxed);
    if debug_state.has_view {
        Cpus.leave_view(guest::root().table);
    }
    MDSCR_EL1.set(debug_state.mdscr);
    MDCR_EL2.set(debug_state.mdcr);
    HCR_EL2.set(debug_state.hcr);
    if debug_state.was_locked {
        OSLAR_EL1.write(OSLAR_EL1::OSLK::Locked);
    }
    if debug_state.was_double_locked {
        OsdlrEl1.write(OSDLR_LOCKED);
    }
    let before = StepState { level: level(debug_state.spsr), pc: debug_state.elr };
    let now = StepState { level: level(frame.spsr), pc: frame.elr };
    let outcome = step::outcome(before, now, ElrEl12.read());
    if debug_state.is_kernel() && outcome != StepOutcome::Entry {
        ElrEl12.write(debug_state.elr_el1);
        SpsrEl12.write(debug_state.spsr_el1);
    }
    synchronize_context();
    match outcome {
        StepOutcome::SameLevel if is_done => {
            // For a guest that single-steps itself, the step is complete: SS is 0 in any case.
            frame.spsr = frame.spsr & !(SPSR_SS | SPSR_AIF) | debug_state.spsr & SPSR_AIF;
            return true;
        }
        // The guest executes the instruction again, from the same state.
        StepOutcome::SameLevel => {
            frame.spsr =
                frame.spsr & !(SPSR_SS | SPSR_AIF) | debug_state.spsr & (SPSR_SS | SPSR_AIF);
        }
        // The handler's PSTATE is correct, with all exceptions masked. Its return state is the
        // saved one.
        StepOutcome::Entry => {
            let saved = SpsrEl12.read();
            SpsrEl12.write(saved & !(SPSR_SS | SPSR_AIF) | debug_state.spsr & (SPSR_SS | SPSR_AIF));
            frame.spsr &= !SPSR_SS;
        }
        // The `ERET` took PSTATE from `SPSR_EL1`, with all exceptions masked, and the sentinel as
        // the address.
        StepOutcome::Return => {
            frame.spsr = frame.spsr & !(SPSR_SS | SPSR_AIF) | debug_state.spsr_el1 & SPSR_AIF;
            frame.elr = debug_state.elr_el1;
        }
    }
    false
}

/// The exception level in a PSTATE.
fn level(spsr: u64) -> u64 {
    (spsr & SPSR_LEVEL) >> 2
}
