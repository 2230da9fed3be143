//! The common case of a trapped access: a load or store of one or two general-purpose registers, of
//! a page that the engine knows as trapped.
//!
//! It is carried out as [`on_fault`](super::hw::on_fault) does, with the same checks under the same
//! lock. One translation by stage 1 gives the page and checks the permission, and stage 2 is not
//! walked: the engine has the place of the page and of the instruction.

use core::sync::atomic::{Ordering, fence};

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
    let is_exclusive =
        matches!(access.kind, Operation::LoadExclusive { .. } | Operation::StoreExclusive { .. });
    if is_exclusive {
        return false;
    }
    let Some(at) = translate_access(address, &access, frame) else { return false };
    let Some(page) = Gfn::containing(at).filter(|_| pages.access_known(frame.elr, at, is_write))
    else {
        return false;
    };
    // Orders the access after the guest's own earlier stores and before its later ones.
    fence(Ordering::SeqCst);
    carry_out(&mut *pages, page, address as usize % PAGE_BYTES, &access, frame);
    fence(Ordering::SeqCst);
    FrameRegisters { frame }.write_back(&access);
    frame.advance();
    true
}

/// Carries out `access` at `offset` of `page`, which is not watched.
#[inline]
fn carry_out(
    pages: &mut impl TrappedPages,
    page: Gfn,
    offset: usize,
    access: &Access,
    frame: &mut TrapFrame,
) {
    let bytes = usize::from(access.bytes);
    let mut load = |offset| pages.load(page, offset, bytes);
    match access.kind {
        Operation::Load { register, extension } => {
            frame.set_register(register, extension.apply(load(offset), access.bytes));
        }
        Operation::LoadPair { registers: [first, second], extension } => {
            let values = [load(offset), load(offset + bytes)];
            frame.set_register(first, extension.apply(values[0], access.bytes));
            frame.set_register(second, extension.apply(values[1], access.bytes));
        }
        Operation::Store { register } => {
            note_store(page, offset);
            pages.store(page, offset, bytes, frame.register(register));
        }
        Operation::StorePair { registers: [first, second] } => {
            note_store(page, offset);
            note_store(page, offset + bytes);
            pages.store(page, offset, bytes, frame.register(first));
            pages.store(page, offset + bytes, bytes, frame.register(second));
        }
        Operation::LoadExclusive { .. } | Operation::StoreExclusive { .. } => {
            unreachable!("invariant: exclusives are no common case")
        }
    }
}
