//! The guest's loads and stores of device registers, with and without a valid syndrome.
// UNSAFETY: the guest's vector registers are the CPU's own: nothing at EL2 uses them.
#![expect(unsafe_code, reason = "the guest's vector registers are the CPU's own")]

use core::arch::{asm, global_asm};

use crate::device::{self, IoError, IoResult, Part, Vectors};
use crate::fault::{MmioAccess, Resume, Stage2Fault};
use crate::frame::TrapFrame;
use crate::guest_registers::hw::FrameRegisters;
use crate::translation;

/// Carries out the access that caused `fault`, part by part. Calls `device` for each part with the
/// guest-physical address, the number of bytes, and the value to store (`None` for a load).
pub fn on_fault(
    fault: &Stage2Fault,
    frame: &mut TrapFrame,
    mut device: impl FnMut(u64, usize, Option<u64>) -> IoResult,
) -> Resume {
    if let Some(access) = fault.mmio(frame) {
        return complete(
            &access,
            frame,
            device(access.address, 1 << access.width_log2, access.write),
        );
    }
    if fault.is_fetch || fault.abort.on_table_walk || fault.abort.is_cache_maintenance {
        return Resume::Abort;
    }
    let Some(instruction) = translation::instruction(frame) else {
        // The guest has unmapped its code meanwhile: it repeats the access, or takes a fault of its
        // own stage 1.
        return Resume::Same;
    };
    if !device::agrees(instruction, fault.abort.is_write) {
        // Another CPU has replaced the instruction by one of the other direction, for which stage 1
        // was not checked.
        return Resume::Same;
    }
    let page = fault.address & !0xfff;
    let answer = |part: Part| device(page | part.offset as u64, part.bytes, part.write);
    resume(device::carry_out(instruction, fault.far, &mut FrameRegisters { frame }, answer))
}

/// Completes an access with a device's answer.
pub fn complete(access: &MmioAccess, frame: &mut TrapFrame, answer: IoResult) -> Resume {
    if let (Ok(value), None) = (answer, access.write) {
        access.answer(frame, value);
    }
    resume(answer.map(|_| ()))
}

/// How the guest continues after an access.
fn resume(done: Result<(), IoError>) -> Resume {
    match done {
        Ok(()) => Resume::Next,
        Err(IoError::NoRegister) => Resume::Abort,
        Err(IoError::Again) => Resume::Same,
    }
}

impl Vectors for FrameRegisters<'_> {
    fn single(&self, number: u8) -> u32 {
        let value: u64;
        // SAFETY: reads one vector register, by its number, which is masked there; changes x0 and
        // x9 alone.
        unsafe {
            asm!("bl oche_read_single", inout("x0") u64::from(number) => value, out("x9") _, out("x30") _,
                options(nostack, nomem, preserves_flags))
        };
        value as u32
    }

    fn set_single(&mut self, number: u8, value: u32) {
        // SAFETY: writes one of the guest's vector registers, which compiled code at EL2 never
        // uses.
        unsafe {
            asm!("bl oche_write_single", inout("x0") u64::from(number) => _, in("x1") u64::from(value),
                out("x9") _, out("x30") _, options(nostack, nomem, preserves_flags))
        };
    }
}

// Eight bytes a register: the move and the return. `CPTR_EL2` lets EL2 have them:
// `cpu_setup::configure`.
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
