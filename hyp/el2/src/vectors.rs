//! EL2's vectors: the entry of every exception to EL2, and the return from it.
//!
//! - A synchronous exception of the guest (`oche_sync_from_guest`, see `trap`) and, with
//!   `oche.fiq=virtual`, a FIQ while it runs (`oche_fiq_from_guest`, in `fiq`) save the guest's
//!   general-purpose registers, and return to it.
//! - An exception taken from EL2 is either a bus error of an access to a device, which returns
//!   (`mmio`), or fatal.
//! - EL2's configuration rules out the other exceptions; they are fatal as well.
//!
//! The assembly names the handlers by their symbols: `smp` needs this module to enter the guest,
//! and the handlers need `smp`.
#![expect(unsafe_code, reason = "the vectors")]

use core::arch::{asm, global_asm};

use crate::frame::{FRAME_BYTES, TrapFrame};
use crate::{mmio, panic, percpu};

/// Sets `VBAR_EL2` to Oche's vectors.
pub fn install() {
    // SAFETY: `oche_vectors` is a complete vector table, 2 KiB aligned.
    unsafe {
        asm!(
            "adrp {0}, oche_vectors",
            "add {0}, {0}, :lo12:oche_vectors",
            "msr vbar_el2, {0}",
            "isb",
            out(reg) _,
            options(nostack, preserves_flags)
        );
    }
}

/// Enters the guest with `frame`. Resets this CPU's stack to `stack_top`.
pub(super) fn enter(frame: &TrapFrame, stack_top: u64) -> ! {
    // SAFETY: the assembly copies the frame to the stack's top, restores it and returns to EL1;
    // nothing of this stack is used again. `frame` lies lower in the same stack, at least a frame
    // away from the top.
    unsafe {
        asm!("b oche_enter", in("x0") &raw const *frame, in("x1") stack_top, options(noreturn))
    }
}

/// Handles an exception that EL2 took from EL2. Returns if it was a bus error with a fixup.
///
/// # Safety
///
/// Only the vectors call this, with the frame that they stored.
#[unsafe(no_mangle)]
unsafe extern "C" fn oche_from_el2(frame: *mut TrapFrame, vector: u64) {
    // SAFETY: the caller's promise is the same.
    if unsafe { mmio::fix_up(frame, vector) } {
        return;
    }
    // SAFETY: the caller's promise is the same.
    unsafe { panic::oche_unexpected(frame, vector) }
}

global_asm!(
    r#"
    // From EL2 itself: only a bus error of an access to a device returns (`mmio`). The cause may be
    // a stack overflow: if SP, or the frame below it, is in the guard page at the low end of the
    // slot, start again at the slot's top. Until that is known no register may be lost, so x0 and
    // SP are kept in each other's sum. After an overflow SP_EL0 is free: it is the guest's, which
    // will not run again.
    .macro from_el2 number
    .balign 128
    add     sp, sp, x0
    sub     x0, sp, x0
    sub     x0, x0, #({frame_bytes} + 512)
    tst     x0, #({stack_bytes} - {guard_bytes})
    add     x0, x0, #({frame_bytes} + 512)
    b.eq    .Loverflow_\number
    sub     x0, sp, x0
    sub     sp, sp, x0
    save_frame
    mov     x1, #\number
    b       oche_el2_trap
    .endm

    // x0 = SP, SP = the sum. The frame does not end at the interrupted SP: nothing returns from
    // here.
    .macro overflow number
.Loverflow_\number:
    msr     sp_el0, x1
    sub     x1, sp, x0
    orr     x0, x0, #({stack_bytes} - 1)
    add     x0, x0, #1
    mov     sp, x0
    mov     x0, x1
    mrs     x1, sp_el0
    save_frame
    mov     x0, sp
    mov     x1, #\number
    b       oche_unexpected
    .endm

    .macro save_frame
    sub     sp, sp, #{frame_bytes}
    stp     x0, x1, [sp]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x0, elr_el2
    mrs     x1, spsr_el2
    stp     x30, x0, [sp, #240]
    str     x1, [sp, #256]
    .endm

    // An exception of the guest that the configuration rules out: IMO and AMO are 0, so IRQs and
    // SErrors go to EL1.
    .macro impossible number
    .balign 128
    save_frame
    mov     x0, sp
    mov     x1, #\number
    mov     x29, xzr
    b       oche_unexpected
    .endm

    .macro guest_sync
    .balign 128
    save_frame
    b       oche_guest_trap
    .endm

    // Only with `oche.fiq=virtual`.
    .macro guest_fiq
    .balign 128
    save_frame
    b       oche_guest_fiq
    .endm

    .section .text.vectors, "ax"
    .balign 2048
    .global oche_vectors
oche_vectors:
    from_el2 0x000
    from_el2 0x080
    from_el2 0x100
    from_el2 0x180
    from_el2 0x200
    from_el2 0x280
    from_el2 0x300
    from_el2 0x380
    guest_sync                          // 0x400: AArch64
    impossible 0x480
    guest_fiq                           // 0x500
    impossible 0x580
    guest_sync                          // 0x600: EL0 in AArch32 under an AArch64 EL1
    impossible 0x680
    guest_fiq                           // 0x700
    impossible 0x780

    .irp number, 0x000, 0x080, 0x100, 0x180, 0x200, 0x280, 0x300, 0x380
    overflow \number
    .endr

oche_el2_trap:
    mov     x0, sp
    bl      oche_from_el2
    b       oche_resume

oche_guest_fiq:
    mov     x0, sp
    mov     x29, xzr
    bl      oche_fiq_from_guest
    b       oche_resume

oche_guest_trap:
    mov     x0, sp
    mov     x29, xzr                    // the end of a backtrace
    bl      oche_sync_from_guest
oche_resume:
    ldp     x30, x0, [sp, #240]
    ldr     x1, [sp, #256]
    msr     elr_el2, x0
    msr     spsr_el2, x1
    ldp     x0, x1, [sp]
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
    add     sp, sp, #{frame_bytes}
    eret
    // No speculation past the return.
    dsb     nsh
    isb

    // x0 = frame to copy, x1 = top of this CPU's stack. Copies downwards: the source is lower.
    .global oche_enter
oche_enter:
    mov     x2, #{frame_bytes}
    mov     x3, x1
1:  sub     x2, x2, #8
    ldr     x4, [x0, x2]
    str     x4, [x3, #-8]!
    cbnz    x2, 1b
    sub     sp, x1, #{frame_bytes}
    b       oche_resume
"#,
    frame_bytes = const FRAME_BYTES,
    stack_bytes = const percpu::STACK_BYTES,
    guard_bytes = const percpu::GUARD_BYTES,
);
