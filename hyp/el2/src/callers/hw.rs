//! The guest's chain of callers, read through its stage-1 tables at the trap.
// UNSAFETY: words of the guest's stack are read at the addresses that both stages give.
#![expect(unsafe_code, reason = "the guest's stack is raw memory")]

use core::arch::asm;

use oche_types::call_chain::CallChain;
use oche_types::range::PhysRange;

use crate::callers;
use crate::frame::TrapFrame;
use crate::translation::translate_to_host;

/// `SPSR_EL2`: an AArch32 state; the exception level.
const SPSR_AARCH32: u64 = 1 << 4;
const SPSR_LEVEL: u64 = 3 << 2;

/// X29 of the guest's kernel; 0 if the trap came from EL0 or from AArch32.
pub fn frame_pointer(frame: &TrapFrame) -> u64 {
    let is_kernel = frame.spsr & SPSR_AARCH32 == 0 && frame.spsr & SPSR_LEVEL != 0;
    if is_kernel { frame.register(29) } else { 0 }
}

/// The callers of the guest's kernel at the instruction `program_counter`. Call it in the trap that
/// both come from, with the engine's lock held, so that no page moves.
///
/// With what records the chain it costs at most 300 instructions, at every flush. So a page is
/// located with one `AT` of both stages, and is not looked up in the tables of stage 2. That
/// refuses a page that CPUs may not read now, as the engine's trapped pages are; the chain ends
/// there.
///
/// # Safety
///
/// `readable` are host-physical ranges of whole pages that EL2 maps for ever as Normal memory.
#[inline(always)]
pub unsafe fn of(frame_pointer: u64, program_counter: u64, readable: &[PhysRange]) -> CallChain {
    let locate = |page: u64| offset_of(page, readable);
    callers::walk(frame_pointer, program_counter, locate, read_pair)
}

/// What to add to an address in the guest's virtual `page` to reach the same byte in one of the
/// ranges, where a load by EL1 would reach it.
#[inline(always)]
fn offset_of(page: u64, readable: &[PhysRange]) -> Option<u64> {
    let host = translate_to_host(page)?;
    // Stage 2 also maps devices, which must not be read.
    let has =
        |range: &PhysRange| host.wrapping_sub(range.start) < range.end.wrapping_sub(range.start);
    readable.iter().any(has).then(|| host.wrapping_sub(page))
}

/// Two words at `address`, a host-physical address, both in a page that `of` has located.
#[inline(always)]
fn read_pair(address: u64) -> [u64; 2] {
    let (first, second): (u64, u64);
    // SAFETY: `of` has found the page readable, and both words are in it and aligned. The guest may
    // change them meanwhile; they are read once each, and any value is accepted.
    unsafe {
        asm!(
            "ldp {first}, {second}, [{address}]",
            address = in(reg) address,
            first = lateout(reg) first,
            second = lateout(reg) second,
            options(nostack, preserves_flags, readonly),
        );
    }
    [first, second]
}
