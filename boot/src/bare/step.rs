//! One instruction of the guest, executed in a view of stage 2 of this CPU's own, and then back to EL2.
//!
//! Software step, routed to EL2 (`MDCR_EL2.TDE`), with the guest's debug state put aside and restored. Interrupts
//! are masked for the one instruction, FIQs go to EL1 for so long where they do not anyway, so nothing comes between; WFI and WFE trap, so that it cannot wait
//! either, whatever another CPU made of the instruction meanwhile. Source: Arm ARM DDI 0487, "Software Step
//! exceptions", D2.11 in issue J, and `MDCR_EL2`, `MDSCR_EL1`, `OSLAR_EL1`.

use core::sync::atomic::{AtomicBool, Ordering};

use aarch64_cpu::registers::{HCR_EL2, Readable, Writeable};

use crate::bare::frame::TrapFrame;
use crate::bare::registers::{ElrEl12, MdcrEl2, MdscrEl1, OslarEl1, OslsrEl1, SpsrEl12, synchronize_context};
use crate::bare::tlb::Cpus;
use crate::bare::{cpu, el2, fiq};
use crate::machine::MOST_CPUS;
use crate::stage2::maintenance::Maintenance as _;

/// `PSTATE.SS`.
pub(super) const SPSR_SS: u64 = 1 << 21;
/// `PSTATE.DAIF`.
const SPSR_DAIF: u64 = 0xf << 6;
/// `PSTATE.{A, I, F}`.
const SPSR_AIF: u64 = 0x7 << 6;
/// `MDSCR_EL1.SS`.
const MDSCR_SS: u64 = 1;
/// `MDSCR_EL1.KDE` and `.MDE`: breakpoints and watchpoints, and debug exceptions at EL2 itself.
const MDSCR_KDE_MDE: u64 = 1 << 13 | 1 << 15;
/// `MDCR_EL2.TDE`.
const MDCR_TDE: u64 = 1 << 8;
/// `HCR_EL2.{FMO, VF}`: what comes to EL2 no mask of EL1's holds back.
const HCR_FIQS: u64 = fiq::HCR_FMO | fiq::HCR_VF;
/// `HCR_EL2.{TWI, TWE}`.
const HCR_WAITS: u64 = 1 << 13 | 1 << 14;
/// `OSLSR_EL1.OSLK`.
const OSLSR_LOCKED: u64 = 1 << 1;

/// Whether each CPU is in a step. Only the CPU itself reads or writes its own.
static STEPPING: [AtomicBool; MOST_CPUS] = [const { AtomicBool::new(false) }; MOST_CPUS];

/// What a step put aside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aside {
    spsr: u64,
    elr: u64,
    mdscr: u64,
    mdcr: u64,
    hcr: u64,
    was_locked: bool,
    has_view: bool,
}

/// Whether this CPU is in a step: the exception that is being handled ends or interrupts it.
pub(super) fn is_stepping() -> bool {
    STEPPING.get(cpu::index()).is_some_and(|is_stepping| is_stepping.load(Ordering::Relaxed))
}

fn set_stepping(is_stepping: bool) {
    if let Some(own) = STEPPING.get(cpu::index()) {
        own.store(is_stepping, Ordering::Relaxed);
    }
}

/// Whether the guest steps itself.
pub(super) fn is_guest_stepping() -> bool {
    MdscrEl1.read() & MDSCR_SS != 0
}

/// Prepares this CPU so that the return to `frame` executes one instruction, in the view at `root` if there is one.
pub(super) fn arm(frame: &mut TrapFrame, root: Option<u64>) -> Aside {
    let aside = Aside {
        spsr: frame.spsr,
        elr: frame.elr,
        mdscr: MdscrEl1.read(),
        mdcr: MdcrEl2.read(),
        hcr: HCR_EL2.get(),
        was_locked: OslsrEl1.read() & OSLSR_LOCKED != 0,
        has_view: root.is_some(),
    };
    MdscrEl1.write(aside.mdscr & !MDSCR_KDE_MDE | MDSCR_SS);
    MdcrEl2.write(aside.mdcr | MDCR_TDE);
    if aside.was_locked {
        // While the OS lock is closed no software step comes.
        OslarEl1.write(0);
    }
    HCR_EL2.set(aside.hcr & !HCR_FIQS | HCR_WAITS);
    frame.spsr |= SPSR_SS | SPSR_AIF;
    if let Some(root) = root {
        Cpus.enter_view(root);
    }
    synchronize_context();
    set_stepping(true);
    aside
}

/// Puts everything back after any exception from the guest in a step. `is_done`: the instruction is complete, or
/// has taken an exception to EL1. Returns whether it is complete.
pub(super) fn disarm(frame: &mut TrapFrame, aside: &Aside, is_done: bool) -> bool {
    set_stepping(false);
    if aside.has_view {
        Cpus.leave_view(el2::root().map_or(0, |root| root.table));
    }
    MdscrEl1.write(aside.mdscr);
    MdcrEl2.write(aside.mdcr);
    HCR_EL2.set(aside.hcr);
    if aside.was_locked {
        OslarEl1.write(1);
    }
    synchronize_context();
    if !is_done {
        // The same instruction again, from the same state.
        frame.spsr = frame.spsr & !(SPSR_SS | SPSR_DAIF) | aside.spsr & (SPSR_SS | SPSR_DAIF);
    } else if is_exception_entry(frame, aside) {
        // The handler's own PSTATE is right, all masked; what it will return to is the state put aside.
        let saved = SpsrEl12.read();
        SpsrEl12.write(saved & !(SPSR_SS | SPSR_DAIF) | aside.spsr & (SPSR_SS | SPSR_DAIF));
        frame.spsr &= !SPSR_SS;
    } else {
        // A guest that steps itself finds its step done: SS is 0 either way.
        frame.spsr = frame.spsr & !(SPSR_SS | SPSR_DAIF) | aside.spsr & SPSR_DAIF;
        return true;
    }
    false
}

/// Whether the stepped instruction took an exception to EL1: it is the address to return to, and the guest is
/// at a vector.
fn is_exception_entry(frame: &TrapFrame, aside: &Aside) -> bool {
    let vector = frame.elr.wrapping_sub(crate::bare::registers::VbarEl12.read());
    vector < 0x800 && vector.is_multiple_of(0x80) && ElrEl12.read() == aside.elr
}
