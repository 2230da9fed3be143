//! The guest's chain of callers, read through its stage-1 tables at the trap.
// UNSAFETY: words of the guest's stack are read at the addresses that its tables and stage 2 give.
#![expect(unsafe_code, reason = "the guest's stack is raw memory")]

use oche_types::addr::{Gfn, PAGE_BYTES};

use crate::callers::{self, MAX_FRAMES};
use crate::frame::TrapFrame;
use crate::guest;
use crate::stage2::Lookup;
use crate::tlb::Cpus;
use crate::translation::translate;

/// `SPSR_EL2`: an AArch32 state; the exception level.
const SPSR_AARCH32: u64 = 1 << 4;
const SPSR_LEVEL: u64 = 3 << 2;

/// X29 of the guest's kernel; 0 if the trap came from EL0 or from AArch32.
pub fn frame_pointer(frame: &TrapFrame) -> u64 {
    let is_kernel = frame.spsr & SPSR_AARCH32 == 0 && frame.spsr & SPSR_LEVEL != 0;
    if is_kernel { frame.register(29) } else { 0 }
}

/// The return addresses of the guest's kernel, innermost first, and their number. Call it in the
/// trap that `frame_pointer` comes from, with the engine's lock held, so that no page moves.
pub fn of(frame_pointer: u64) -> ([u64; MAX_FRAMES], usize) {
    let mut found = [0; MAX_FRAMES];
    // Most frames are on one page of the stack.
    let mut last: Option<(u64, u64)> = None;
    let count = callers::walk(frame_pointer, &mut found, |at| {
        let page = at & !(PAGE_BYTES as u64 - 1);
        let host = match last {
            Some((known, host)) if known == page => host,
            _ => {
                let host = host_page(page)?;
                last = Some((page, host));
                host
            }
        };
        let pointer =
            core::ptr::with_exposed_provenance::<u64>(host as usize + at as usize % PAGE_BYTES);
        // SAFETY: the page is guest RAM or in a frame of the pool, which EL2 always maps. Both
        // words are in it, aligned, and read once each, whatever the guest does meanwhile.
        let next = unsafe { pointer.read_volatile() };
        // SAFETY: the same.
        let address = unsafe { pointer.wrapping_add(1).read_volatile() };
        Some([next, address])
    });
    (found, count)
}

/// The host-physical address of the guest's virtual `page`, if it is guest RAM.
fn host_page(page: u64) -> Option<u64> {
    let address = translate(page, false).filter(|at| guest::is_memory(*at))?;
    match guest::root().lookup(&Cpus, Gfn::containing(address)?) {
        Lookup::Mapped { at, .. } => Some(at.address()),
        _ => None,
    }
}
