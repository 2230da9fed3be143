//! One instruction of the guest, executed in a view of stage 2 of this CPU's own, and then back to
//! EL2.
//!
//! Software step, routed to EL2 (`MDCR_EL2.TDE`), with the guest's debug state put aside and
//! restored. Interrupts are masked for the one instruction, FIQs go to EL1 for so long where they
//! do not anyway, so nothing comes between.
//!
//! Another CPU may make anything of the instruction meanwhile, and the step must end all the same,
//! with the guest in a state that it could have reached without:
//! - It cannot wait: WFI and WFE trap.
//! - It cannot switch the step off: with `MDCR_EL2.TDE` set, TDA, TDOSA and TDRA count as set, so
//!   accesses to `MDSCR_EL1`, `OSLAR_EL1` and `OSDLR_EL1` trap and are executed again, unstepped.
//!   The OS lock and the double lock are open from the start.
//! - An exception to EL1 is known by its level, or, from EL1, by `ELR_EL1`: that holds for the step
//!   what no exception stores there.
//! - An `ERET` at EL1 takes its address from there too, and its masks from `SPSR_EL1`, in which all
//!   are set for the step: no interrupt is taken behind it, whose return address would be just that
//!   of the `ERET`.
//! - What reads or writes the masks at EL1 has a result that differs. Of two words that another CPU
//!   exchanges while they are executed EL1 may expect nothing better, but where the architecture
//!   names them, and none of those does (Arm ARM DDI 0487, "Concurrent modification and execution
//!   of instructions"). EL0 has no access to the masks.
//!
//! Source: Arm ARM DDI 0487, "Software Step exceptions", D2.11 in issue J, and `MDCR_EL2`,
//! `MDSCR_EL1`, `OSLAR_EL1`, `OSDLR_EL1`.

use core::sync::atomic::{AtomicBool, Ordering};

use aarch64_cpu::registers::{HCR_EL2, MDCR_EL2, MDSCR_EL1, OSLAR_EL1, Readable, Writeable};
use oche_types::MAX_CPUS;

use crate::frame::{SPSR_SS, TrapFrame};
use crate::registers::{
    ElrEl12, HCR_FMO, HCR_VF, OsdlrEl1, OslsrEl1, SpsrEl12, synchronize_context,
};
use crate::stage2::maintenance::Maintenance as _;
use crate::step::{self, State, StepOutcome, sentinel};
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
/// `HCR_EL2.{FMO, VF}`: what comes to EL2 no mask of EL1's holds back.
const HCR_FIQS: u64 = HCR_FMO | HCR_VF;
/// `HCR_EL2.{TWI, TWE}`.
const HCR_WAITS: u64 = 1 << 13 | 1 << 14;
/// `OSLSR_EL1.OSLK`.
const OSLSR_LOCKED: u64 = 1 << 1;
/// `OSDLR_EL1.DLK`.
const OSDLR_LOCKED: u64 = 1;

/// Whether each CPU is in a step. Only the CPU itself reads or writes its own.
static STEPPING: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];

/// What a step put aside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SavedDebugState {
    spsr: u64,
    elr: u64,
    mdscr: u64,
    mdcr: u64,
    hcr: u64,
    was_locked: bool,
    was_double_locked: bool,
    /// Of a step at EL1: `ELR_EL1`, which holds [`sentinel`] meanwhile, and `SPSR_EL1`, whose masks
    /// are set.
    elr_el1: u64,
    spsr_el1: u64,
    has_view: bool,
}

impl SavedDebugState {
    fn is_kernel(&self) -> bool {
        level(self.spsr) != 0
    }
}

/// Whether this CPU is in a step: the exception that is being handled ends or interrupts it.
pub(crate) fn is_stepping() -> bool {
    stepping().load(Ordering::Relaxed)
}

/// Whether this CPU is in a step.
fn stepping() -> &'static AtomicBool {
    STEPPING.get(percpu::index()).expect("invariant: a CPU's number is below the most CPUs")
}

/// Whether the guest steps itself.
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
        // While the OS lock is closed no software step comes.
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
    // The exception return synchronises the context too, but only after it has looked whether to
    // copy SPSR_EL2.SS.
    synchronize_context();
    stepping().store(true, Ordering::Relaxed);
    debug_state
}

/// Puts everything back after any exception from the guest in a step. `is_done`: the instruction is
/// complete, or has taken an exception to EL1. Returns whether it is complete.
pub(crate) fn disarm(frame: &mut TrapFrame, debug_state: &SavedDebugState, is_done: bool) -> bool {
    stepping().store(false, Ordering::Relaxed);
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
    let before = State { level: level(debug_state.spsr), pc: debug_state.elr };
    let now = State { level: level(frame.spsr), pc: frame.elr };
    let outcome = step::outcome(before, now, ElrEl12.read());
    if debug_state.is_kernel() && outcome != StepOutcome::Entry {
        ElrEl12.write(debug_state.elr_el1);
        SpsrEl12.write(debug_state.spsr_el1);
    }
    synchronize_context();
    match outcome {
        StepOutcome::SameLevel if is_done => {
            // A guest that steps itself finds its step done: SS is 0 either way.
            frame.spsr = frame.spsr & !(SPSR_SS | SPSR_AIF) | debug_state.spsr & SPSR_AIF;
            return true;
        }
        // The same instruction again, from the same state.
        StepOutcome::SameLevel => {
            frame.spsr =
                frame.spsr & !(SPSR_SS | SPSR_AIF) | debug_state.spsr & (SPSR_SS | SPSR_AIF);
        }
        // The handler's own PSTATE is right, all masked; what it will return to is the state put
        // aside.
        StepOutcome::Entry => {
            let saved = SpsrEl12.read();
            SpsrEl12.write(saved & !(SPSR_SS | SPSR_AIF) | debug_state.spsr & (SPSR_SS | SPSR_AIF));
            frame.spsr &= !SPSR_SS;
        }
        // PSTATE comes from `SPSR_EL1`, all masked, and the address was the sentinel.
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
