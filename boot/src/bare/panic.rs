//! When Oche itself is wrong: say everything that is known, then stop this CPU.

use core::arch::global_asm;
use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::bare::console::{self, print};
use crate::bare::frame::TrapFrame;
use crate::bare::registers::{ElrEl12, EsrEl2, FarEl2, HpfarEl2};
use crate::bare::{cpu, entry, firmware, mmio};
use crate::lock::Once;

/// Most return addresses that are printed.
const BACKTRACE_LIMIT: usize = 24;

/// Writes the machine's last words, such as the newest trace events, each line after [`PREFIX`]. Must not panic
/// and must not wait.
pub type LastWords = fn(out: &mut dyn fmt::Write) -> fmt::Result;

/// How each line of a panic begins.
pub const PREFIX: &str = "oche: panic: ";

static LAST_WORDS: Once<LastWords> = Once::new();
/// Somebody has said that it panics.
static IS_TOLD: AtomicBool = AtomicBool::new(false);
/// Somebody panics already: a panic inside a panic only says so.
static PANICKING: AtomicBool = AtomicBool::new(false);

/// What a machine does instead of stopping, such as a reset. May return; then the CPU stops.
static END: Once<fn()> = Once::new();

/// Has a panic end with `end`.
pub fn set_end(end: fn()) {
    END.set(end);
}

/// Whether some CPU has panicked, from its first word on.
pub fn is_panicking() -> bool {
    IS_TOLD.load(Ordering::Relaxed)
}

/// Registers the hook.
pub fn set_last_words(hook: LastWords) {
    LAST_WORDS.set(hook);
}

/// Points `VBAR_EL2` at Oche's vectors.
pub fn install_vectors() {
    // SAFETY: `oche_vectors` is a complete vector table, 2 KiB aligned.
    unsafe {
        core::arch::asm!(
            "adrp {0}, oche_vectors",
            "add {0}, {0}, :lo12:oche_vectors",
            "msr vbar_el2, {0}",
            "isb",
            out(reg) _,
            options(nostack, preserves_flags)
        );
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let mut frame_pointer: u64;
    // SAFETY: copies a register.
    unsafe {
        core::arch::asm!("mov {}, x29", out(reg) frame_pointer, options(nomem, nostack, preserves_flags))
    };
    IS_TOLD.store(true, Ordering::Relaxed);
    if let Some(location) = info.location() {
        print(format_args!("oche: panic: cpu {}: {} at {location}\n", cpu::index(), info.message()));
    } else {
        print(format_args!("oche: panic: cpu {}: {}\n", cpu::index(), info.message()));
    }
    stop(frame_pointer)
}

/// An exception that EL2 took from EL2: returns if it was a bus error that is made good.
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
    unsafe { oche_unexpected(frame, vector) }
}

/// An exception that EL2 took from EL2 and that ends it, or one that the configuration makes impossible.
///
/// # Safety
///
/// Only the vectors call this, with the frame that they stored.
#[unsafe(no_mangle)]
unsafe extern "C" fn oche_unexpected(frame: *const TrapFrame, vector: u64) -> ! {
    // SAFETY: the vectors stored it on this CPU's stack and never touch it again.
    let frame = unsafe { &*frame };
    let base = entry::image().start;
    let (syndrome, far) = (EsrEl2.read(), FarEl2.read());
    IS_TOLD.store(true, Ordering::Relaxed);
    print(format_args!(
        "oche: panic: cpu {}: {} (vector {vector:#x}): ESR {syndrome:#x} FAR {far:#x} HPFAR {:#x} ELR {:#x} (image+{:#x}) SPSR {:#x}\n",
        cpu::index(),
        name(syndrome, far),
        HpfarEl2.read(),
        frame.elr,
        frame.elr.wrapping_sub(base),
        frame.spsr,
    ));
    for (row, registers) in frame.registers.chunks(4).enumerate() {
        print(format_args!("oche: panic: x{:<2}", row * 4));
        for register in registers {
            print(format_args!(" {register:#018x}"));
        }
        print(format_args!("\n"));
    }
    stop(frame.register(29))
}

/// As an exception that the configuration makes impossible.
///
/// # Safety
///
/// `frame` is what the vectors stored.
pub(super) unsafe fn unexpected(frame: *const TrapFrame, vector: u64) -> ! {
    // SAFETY: the caller's promise is the same.
    unsafe { oche_unexpected(frame, vector) }
}

/// What happened, in words. Source: Arm ARM DDI 0487, `ESR_EL2`, EC.
fn name(syndrome: u64, far: u64) -> &'static str {
    let guard = stack_bottom() - cpu::GUARD_BYTES..stack_bottom();
    match syndrome >> 26 & 0x3f {
        0x25 if guard.contains(&far) => "stack overflow",
        0x25 => "data abort",
        0x21 => "instruction abort",
        0x2f => "SError",
        _ => "exception",
    }
}

/// The lowest mapped address of this CPU's stack.
fn stack_bottom() -> u64 {
    cpu::stack_top(cpu::index()) - cpu::STACK_BYTES as u64 + cpu::GUARD_BYTES
}

fn stop(frame_pointer: u64) -> ! {
    if PANICKING.swap(true, Ordering::Relaxed) {
        print(format_args!("oche: panic: cpu {}: while another panic is printed\n", cpu::index()));
        firmware::halt();
    }
    print(format_args!("oche: panic: guest ELR_EL1 {:#x}, image at {}\n", ElrEl12.read(), entry::image()));
    backtrace(frame_pointer);
    if let Some(hook) = LAST_WORDS.get() {
        // The console takes everything.
        let _ = hook(&mut console::Writer);
    }
    console::on_fatal();
    print(format_args!("oche: panic: stopped\n"));
    if let Some(end) = END.get() {
        end();
    }
    firmware::halt()
}

/// Follows the frame pointers inside this CPU's stack: each points at the caller's and the return address.
fn backtrace(mut frame_pointer: u64) {
    let top = cpu::stack_top(cpu::index());
    let bottom = stack_bottom();
    for _ in 0..BACKTRACE_LIMIT {
        if frame_pointer < bottom || frame_pointer > top - 16 || !frame_pointer.is_multiple_of(16) {
            return;
        }
        let record = frame_pointer as *const u64;
        // SAFETY: inside the mapped part of this CPU's stack, checked above.
        let next = unsafe { record.read_volatile() };
        // SAFETY: as above, eight bytes further.
        let return_address = unsafe { record.wrapping_add(1).read_volatile() };
        print(format_args!("oche: panic: image+{:#x}\n", return_address.wrapping_sub(entry::image().start)));
        if next <= frame_pointer {
            return;
        }
        frame_pointer = next;
    }
}

global_asm!(
    r#"
    // From EL2 itself: what returns is a bus error of an access to a device (`bare::mmio`). The stack may be what
    // failed: if SP is in the guard page at the low end of its slot, or a frame would be, start over at the slot's top.
    // Until that is known no register may be lost: x0 and SP are kept in each other's sum. Behind it SP_EL0 is free: it
    // is the guest's, which will not run again.
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

    // x0 = SP, SP = the sum. The frame does not end at the interrupted SP: nothing returns from here.
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

    // A guest exception that the configuration rules out: IMO and AMO are 0, so interrupts and SErrors go to EL1.
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

oche_guest_trap:
    mov     x0, sp
    mov     x29, xzr                    // the end of a backtrace
    mov     x30, xzr
    bl      oche_sync_from_guest
    b       oche_resume

oche_guest_fiq:
    mov     x0, sp
    mov     x29, xzr
    mov     x30, xzr
    bl      oche_fiq_from_guest
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
    frame_bytes = const crate::bare::frame::FRAME_BYTES,
    stack_bytes = const cpu::STACK_BYTES,
    guard_bytes = const cpu::GUARD_BYTES,
);
