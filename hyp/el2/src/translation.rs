//! Translation by the guest's stage 1: of the instruction that trapped, and of its access.
// UNSAFETY: `AT` walks the guest's tables, and an instruction is read at the address that they and
// stage 2 give.
#![expect(unsafe_code, reason = "AT, and reading the guest's instructions")]

use core::arch::asm;

use aarch64_cpu::registers::{PAR_EL1, Readable, Writeable};
use oche_types::addr::{Gfn, Hfn, PAGE_BYTES};

use crate::frame::TrapFrame;
use crate::instruction::{Access, InstructionSet};
use crate::registers::{Pan, SctlrEl12};
use crate::stage2::Lookup;
use crate::tlb::Cpus;
use crate::{features, guest};

/// `SPSR_EL2`: an AArch32 state, and T32 in it; the exception level; UAO and PAN.
const SPSR_AARCH32: u64 = 1 << 4;
const SPSR_T32: u64 = 1 << 5;
const SPSR_LEVEL: u64 = 3 << 2;
const SPSR_PAN: u64 = 1 << 22;
const SPSR_UAO: u64 = 1 << 23;
/// `SCTLR_EL1.{E0E, EE}`: data is big-endian. `.{ATA0, ATA}`: accesses check tags.
const SCTLR_UNUSUAL: u64 = 1 << 24 | 1 << 25 | 1 << 42 | 1 << 43;
/// `PAR_EL1.PA`.
const PAR_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The guest's instruction, if the guest is in AArch64 state with little-endian data and no tag
/// checks. `None` also if the instruction cannot be read now.
pub(super) fn instruction(frame: &TrapFrame) -> Option<u32> {
    raw_instruction(frame).filter(|_| is_usual(frame)).map(|(word, _)| word)
}

/// As [`instruction`], where `locate` returns the host page of a page of guest RAM.
pub(super) fn instruction_at(
    frame: &TrapFrame,
    locate: impl FnOnce(Gfn) -> Option<Hfn>,
) -> Option<u32> {
    if !is_usual(frame) || !frame.elr.is_multiple_of(4) {
        return None;
    }
    let address = translate(frame.elr, frame.spsr & SPSR_LEVEL == 0)?;
    let at = locate(Gfn::containing(address)?)?;
    let offset = address as usize % PAGE_BYTES;
    let pointer = core::ptr::with_exposed_provenance::<u32>(at.address() as usize + offset);
    // SAFETY: a page of the guest's RAM or of the engine's frames, which EL2 maps for ever; the
    // guest may change it at any time, and the word, which is aligned, is read once.
    Some(unsafe { pointer.read_volatile() })
}

/// Whether the guest is in AArch64 state with little-endian data and no tag checks.
fn is_usual(frame: &TrapFrame) -> bool {
    frame.spsr & SPSR_AARCH32 == 0 && SctlrEl12.read() & SCTLR_UNUSUAL == 0
}

/// The guest's instruction and its instruction set, in any state. `None` if it cannot be read now,
/// or crosses the end of the page.
pub(super) fn raw_instruction(frame: &TrapFrame) -> Option<(u32, InstructionSet)> {
    let set = match frame.spsr & (SPSR_AARCH32 | SPSR_T32) {
        SPSR_AARCH32 => InstructionSet::A32,
        0 | SPSR_T32 => InstructionSet::A64,
        _ => InstructionSet::T32,
    };
    let address =
        translate(frame.elr, frame.spsr & SPSR_LEVEL == 0).filter(|at| guest::is_memory(*at))?;
    let Lookup::Mapped { at, .. } = guest::root().lookup(&Cpus, Gfn::containing(address)?) else {
        return None;
    };
    let offset = address as usize % PAGE_BYTES;
    if offset + 4 > PAGE_BYTES {
        return None;
    }
    let pointer = core::ptr::with_exposed_provenance::<u16>(at.address() as usize + offset);
    if set == InstructionSet::T32 {
        // SAFETY: a page of the guest's RAM or of the engine's frames, which EL2 maps for ever; the
        // guest may change it at any time, and each half is read once.
        let first = unsafe { pointer.read_volatile() };
        // SAFETY: the same, and it is in the same page.
        let second = unsafe { pointer.wrapping_add(1).read_volatile() };
        return Some((u32::from(first) << 16 | u32::from(second), set));
    }
    let pointer = pointer.cast::<u32>();
    if !pointer.is_aligned() {
        return None;
    }
    // SAFETY: as above, and it is read once.
    Some((unsafe { pointer.read_volatile() }, set))
}

/// The result of translating an access by stage 1 again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Translation {
    /// The access is allowed, and translates to the expected page.
    Same,
    /// Stage 1 refuses the access, with this status (`DFSC`).
    Fault(u64),
    /// The access translates to another page, or stage 2 faults on the walk.
    Other,
}

/// Checks that the guest's stage 1, in the state of `frame`, still allows `access` at the virtual
/// `address`, which is inside one page, and translates it to `page`. Call it with the engine's lock
/// held, right before the access is emulated.
///
/// A race remains: another CPU may change the mapping after this check. Its `TLBI` does not wait
/// for this CPU, which is at EL2 and has not made the access yet. But the access is made before
/// this CPU releases the engine's lock, and so before any trapping access after that `TLBI`. Only a
/// device can observe it late, or a load of a page whose copies devices only read. The instruction
/// itself is read where EL0 or EL1 may read; whether it may be executed there is not checked again.
pub(super) fn recheck_translation(
    address: u64,
    access: &Access,
    frame: &TrapFrame,
    page: Gfn,
) -> Translation {
    let Some(result) = ask_stage1_for(address, access, frame) else { return Translation::Other };
    // F; FST; S: stage 2 stopped the walk.
    match (result & 1, result >> 9 & 1) {
        (0, _) if result & PAR_ADDRESS == page.address() => Translation::Same,
        (0, _) | (_, 1) => Translation::Other,
        _ => Translation::Fault(result >> 1 & 0x3f),
    }
}

/// The guest-physical address to which the guest's stage 1, in the state of `frame`, translates
/// `access` at the virtual `address`, if it allows the access. As [`recheck_translation`].
#[inline]
pub(super) fn translate_access(address: u64, access: &Access, frame: &TrapFrame) -> Option<u64> {
    let result = ask_stage1_for(address, access, frame).filter(|result| result & 1 == 0)?;
    Some(result & PAR_ADDRESS | address & 0xfff)
}

/// `PAR_EL1` after a walk of the guest's stage 1 for `access` in the state of `frame`, or `None` if
/// no `AT` is for such an access.
#[inline]
fn ask_stage1_for(address: u64, access: &Access, frame: &TrapFrame) -> Option<u64> {
    let executes_as_user = frame.spsr & SPSR_LEVEL == 0;
    let is_user = executes_as_user || access.is_unprivileged && frame.spsr & SPSR_UAO == 0;
    let has_pan = frame.spsr & (SPSR_AARCH32 | SPSR_PAN) == SPSR_PAN && !is_user;
    if has_pan && !features::has_translation_with_pan() {
        return None;
    }
    Some(ask_stage1(address, is_user, access.is_write(), has_pan))
}

/// The guest-physical address to which the guest's stage 1 translates a load by EL0, or by EL1
/// without PAN.
pub(super) fn translate(address: u64, is_user: bool) -> Option<u64> {
    let result = ask_stage1(address, is_user, false, false);
    (result & 1 == 0).then_some(result & PAR_ADDRESS | address & 0xfff)
}

/// The host-physical page to which both stages translate a load by EL1 at the virtual `address`,
/// if they allow it.
#[inline]
pub(super) fn translate_to_host(address: u64) -> Option<u64> {
    // The guest uses PAR_EL1 too.
    let saved = PAR_EL1.get();
    // SAFETY: AT walks the tables of both stages and writes PAR_EL1 only, which is put back below.
    unsafe {
        asm!("at s12e1r, {}", "isb", in(reg) address, options(nostack, preserves_flags));
    }
    let result = PAR_EL1.get();
    PAR_EL1.set(saved);
    (result & 1 == 0).then_some(result & PAR_ADDRESS)
}

/// `PAR_EL1` after a walk of the guest's stage 1 for an access. At EL2, a fault of either stage on
/// the walk is reported there and not taken. `has_pan` selects an access by EL1 with `PSTATE.PAN`
/// set, which needs FEAT_PAN2.
#[inline]
fn ask_stage1(address: u64, is_user: bool, is_write: bool, has_pan: bool) -> u64 {
    // The guest uses PAR_EL1 too.
    let saved = PAR_EL1.get();
    match (is_user, is_write, has_pan) {
        // SAFETY: AT walks the guest's tables and writes PAR_EL1 only, which is put back below.
        (true, false, _) => unsafe {
            asm!("at s1e0r, {}", "isb", in(reg) address, options(nostack, preserves_flags));
        },
        // SAFETY: the same.
        (true, true, _) => unsafe {
            asm!("at s1e0w, {}", "isb", in(reg) address, options(nostack, preserves_flags));
        },
        // SAFETY: the same.
        (false, false, false) => unsafe {
            asm!("at s1e1r, {}", "isb", in(reg) address, options(nostack, preserves_flags));
        },
        // SAFETY: the same.
        (false, true, false) => unsafe {
            asm!("at s1e1w, {}", "isb", in(reg) address, options(nostack, preserves_flags));
        },
        (false, _, true) => ask_stage1_with_pan(address, is_write),
    }
    let result = PAR_EL1.get();
    PAR_EL1.set(saved);
    result
}

/// Executes `AT S1E1RP` or `AT S1E1WP`, which use the PAN of the level that executes them. EL2 can
/// set its own PAN, because EL0 cannot access EL2's pages.
#[inline]
fn ask_stage1_with_pan(address: u64, is_write: bool) {
    let own = Pan.read();
    Pan.write(SPSR_PAN);
    if is_write {
        // SAFETY: AT walks the guest's tables and writes PAR_EL1 only, which the caller puts back.
        unsafe {
            asm!("sys #0, c7, c9, #1, {}", "isb", in(reg) address, options(nostack, preserves_flags))
        };
    } else {
        // SAFETY: the same.
        unsafe {
            asm!("sys #0, c7, c9, #0, {}", "isb", in(reg) address, options(nostack, preserves_flags))
        };
    }
    Pan.write(own);
}
