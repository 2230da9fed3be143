//! A device's registers under the guest's loads and stores, described by a syndrome or not.
// UNSAFETY: the guest's vector registers are the CPU's own: nothing at EL2 uses them.
#![expect(unsafe_code, reason = "the guest's vector registers are the CPU's own")]

use core::arch::{asm, global_asm};

use crate::bare::frame::TrapFrame;
use crate::bare::guard::Guest;
use crate::bare::translation;
use crate::bare::trap::{Fault, Resume};
use crate::device::{self, Part, Vectors};

/// Has `device` answer the access that `fault` stopped: each part gets guest-physical address, bytes, what is stored
/// (`None` for a load), and gives what is loaded (anything for a store), or `None` where no register answers so.
pub fn on_fault(
    fault: &Fault,
    frame: &mut TrapFrame,
    mut device: impl FnMut(u64, usize, Option<u64>) -> Option<u64>,
) -> Resume {
    if let Some(access) = fault.mmio(frame) {
        let Some(value) = device(access.address, 1 << access.width_log2, access.write) else {
            return Resume::Abort;
        };
        if access.write.is_none() {
            access.answer(frame, value);
        }
        return Resume::Next;
    }
    if fault.is_fetch || fault.abort.on_table_walk || fault.abort.is_cache_maintenance {
        return Resume::Abort;
    }
    let Some(instruction) = translation::instruction(frame) else {
        // The guest's code moved under it: the access comes again, or faults in the guest's own tables.
        return Resume::Same;
    };
    if !device::agrees(instruction, fault.abort.is_write) {
        // Another CPU replaced it: stage 1 was asked for the other direction.
        return Resume::Same;
    }
    let page = fault.address & !0xfff;
    let answer = |part: Part| device(page | part.offset as u64, part.bytes, part.write);
    match device::carry_out(instruction, fault.far, &mut Guest { frame }, answer) {
        Some(()) => Resume::Next,
        None => Resume::Abort,
    }
}

impl Vectors for Guest<'_> {
    fn single(&self, number: u8) -> u32 {
        let value: u64;
        // SAFETY: reads one vector register, by its number, which is masked there; changes x0 and x9 alone.
        unsafe {
            asm!("bl oche_read_single", inout("x0") u64::from(number) => value, out("x9") _, out("x30") _,
                options(nostack, nomem, preserves_flags))
        };
        value as u32
    }

    fn set_single(&mut self, number: u8, value: u32) {
        // SAFETY: writes one of the guest's vector registers, which compiled code at EL2 never uses.
        unsafe {
            asm!("bl oche_write_single", inout("x0") u64::from(number) => _, in("x1") u64::from(value),
                out("x9") _, out("x30") _, options(nostack, nomem, preserves_flags))
        };
    }
}

// Eight bytes a register: the move and the return. `CPTR_EL2` lets EL2 have them: `el2::configure`.
global_asm!(
    r#"
    .section .text.single, "ax"
    .arch_extension fp
    .global oche_read_single
oche_read_single:
    and     x0, x0, #31
    adr     x9, 1f
    add     x9, x9, x0, lsl #3
    br      x9
1:
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    fmov    w0, s\n
    ret
    .endr
    .global oche_write_single
oche_write_single:
    and     x0, x0, #31
    adr     x9, 1f
    add     x9, x9, x0, lsl #3
    br      x9
1:
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    fmov    s\n, w1
    ret
    .endr
    .arch_extension nofp
"#
);
