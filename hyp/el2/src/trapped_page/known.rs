//! The common case of a trapped access: a load or store of one or two general-purpose registers, of
//! a page that the engine knows as trapped.
//!
//! It is carried out as [`on_fault`](super::hw::on_fault) does, with the same checks under the same
//! lock. One translation by stage 1 gives the page and checks the permission, and stage 2 is not
//! walked: the engine has the place of the page and of the instruction.

use core::sync::atomic::{Ordering, fence};

use oche_engine::Parts;
use oche_types::addr::{Gfn, PAGE_BYTES};

use crate::frame::TrapFrame;
use crate::guest_registers::GuestRegisters;
use crate::guest_registers::hw::FrameRegisters;
use crate::instruction::{self, Access, Operation};
use crate::lock::SpinLock;
use crate::translation::{instruction_at, translate_access};
use crate::trapped_page::hw::note_store;
use crate::trapped_page::{Agreement, TrappedPages, agreement};

/// Carries out the guest's load or store that stage 2 refused at the virtual address `far`. Returns
/// false, and does nothing, if it is not a common case, or if another CPU holds the engine's lock:
/// the page may be broken, and then this CPU must not wait at EL2.
pub fn emulate_known<G: TrappedPages>(
    engine: &'static SpinLock<G>,
    far: u64,
    is_write: bool,
    frame: &mut TrapFrame,
) -> bool {
    let Some(mut pages) = engine.try_lock() else { return false };
    let word = instruction_at(frame, |page| pages.locate(page));
    let Some(access) = word.and_then(instruction::decode) else { return false };
    let Agreement::Same(address) = agreement(&access, &FrameRegisters { frame }, far, is_write)
    else {
        return false;
    };
    // An exclusive begins or ends a sequence.
    if !matches!(access.kind, Operation::Load | Operation::Store) {
        return false;
    }
    let Some(at) = translate_access(address, &access, frame) else { return false };
    // Orders the access after the guest's own earlier stores and before its later ones.
    fence(Ordering::SeqCst);
    let is_known = match is_write {
        false => load(&mut *pages, at, &access, frame),
        true => store(&mut *pages, at, &access, frame),
    };
    fence(Ordering::SeqCst);
    if is_known {
        FrameRegisters { frame }.write_back(&access);
        frame.advance();
    }
    is_known
}

/// The parts of `access`.
#[inline]
fn parts(access: &Access) -> Parts {
    Parts { bytes: usize::from(access.bytes), count: 1 + usize::from(access.is_pair) }
}

/// Carries out the load `access` at guest-physical `at`. Returns whether it did.
#[inline(always)]
fn load(pages: &mut impl TrappedPages, at: u64, access: &Access, frame: &mut TrapFrame) -> bool {
    let Some(values) = pages.load_known(frame.elr, at, parts(access)) else { return false };
    for (register, value) in access.registers.into_iter().zip(values) {
        frame.set_register(register, access.extension.apply(value, access.bytes));
    }
    true
}

/// Carries out the store `access` at guest-physical `at`. Returns whether it did.
#[inline(always)]
fn store(pages: &mut impl TrappedPages, at: u64, access: &Access, frame: &TrapFrame) -> bool {
    let values = access.registers.map(|register| frame.register(register));
    let is_known = pages.store_known(frame.elr, at, parts(access), values);
    if is_known && let Some(page) = Gfn::containing(at) {
        // Under the engine's lock still, so no other CPU has ended a sequence since.
        let offset = at as usize % PAGE_BYTES;
        note_store(page, [offset, parts(access).last(offset)]);
    }
    is_known
}
