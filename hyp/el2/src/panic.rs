//! Panics of Oche: printing the state, then stopping this CPU.
#![expect(unsafe_code, reason = "what the vectors stored, and stacks")]

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use aarch64_cpu::registers::{ESR_EL2, FAR_EL2, HPFAR_EL2, Readable};

use crate::console::{self, print};
use crate::failure::Failure;
use crate::frame::TrapFrame;
use crate::lock::Once;
use crate::registers::ElrEl12;
use crate::{firmware, identity, image, percpu};

/// Most return addresses that are printed.
const BACKTRACE_LIMIT: usize = 24;

/// Prints what a board adds to a panic, such as the newest trace events, with [`PREFIX`] before
/// each line. Must not panic and must not wait.
pub type PanicHook = fn(out: &mut dyn fmt::Write) -> fmt::Result;

/// How each line of a panic begins.
pub const PREFIX: &str = "oche: panic: ";

static PANIC_HOOK: Once<PanicHook> = Once::new();
/// Whether a CPU has begun to print a panic.
static IS_REPORTED: AtomicBool = AtomicBool::new(false);
/// Whether a CPU has printed its first message: a panic inside a panic prints no more than that.
static PANICKING: AtomicBool = AtomicBool::new(false);

/// What a board does instead of stopping, such as a reset. If it returns, the CPU stops.
static ACTION: Once<fn()> = Once::new();

/// Sets `action` to be called at the end of a panic.
pub fn set_panic_action(action: fn()) {
    ACTION.set(action);
}

/// Whether a CPU has begun to print a panic.
pub fn is_panicking() -> bool {
    IS_REPORTED.load(Ordering::Relaxed)
}

/// Registers the hook.
pub fn set_panic_hook(hook: PanicHook) {
    PANIC_HOOK.set(hook);
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let mut frame_pointer: u64;
    // SAFETY: copies a register.
    unsafe {
        core::arch::asm!("mov {}, x29", out(reg) frame_pointer, options(nomem, nostack, preserves_flags))
    };
    IS_REPORTED.store(true, Ordering::Relaxed);
    let message = info.message();
    let (cpu, code) = (percpu::index(), Failure::of_panic(&message).code());
    if let Some(location) = info.location() {
        print(format_args!("oche: panic: cpu {cpu}: {message} at {location} ({code})\n"));
    } else {
        print(format_args!("oche: panic: cpu {cpu}: {message} ({code})\n"));
    }
    stop(frame_pointer)
}

/// Stops at a fatal exception that EL2 took from EL2, or at one that the configuration rules out.
///
/// # Safety
///
/// `frame` is what the vectors stored on this CPU's stack.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn oche_unexpected(frame: *const TrapFrame, vector: u64) -> ! {
    // SAFETY: the vectors stored it on this CPU's stack and never touch it again.
    let frame = unsafe { &*frame };
    let base = image::range().start;
    let (syndrome, far) = (ESR_EL2.get(), FAR_EL2.get());
    IS_REPORTED.store(true, Ordering::Relaxed);
    let (name, failure) = class(syndrome, far);
    print(format_args!(
        "oche: panic: cpu {}: {name} (vector {vector:#x}, {}): ESR {syndrome:#x} FAR {far:#x} HPFAR {:#x} ELR {:#x} (image+{:#x}) SPSR {:#x}\n",
        percpu::index(),
        failure.code(),
        HPFAR_EL2.get(),
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

/// What happened, in words. Source: Arm ARM DDI 0487, `ESR_EL2`, EC.
fn class(syndrome: u64, far: u64) -> (&'static str, Failure) {
    let guard = stack_bottom() - percpu::GUARD_BYTES..stack_bottom();
    match syndrome >> 26 & 0x3f {
        0x25 if guard.contains(&far) => ("stack overflow", Failure::StackOverflow),
        0x25 => ("data abort", Failure::DataAbort),
        0x21 => ("instruction abort", Failure::InstructionAbort),
        0x2f => ("SError", Failure::SystemError),
        _ => ("exception", Failure::Exception),
    }
}

/// The lowest mapped address of this CPU's stack.
fn stack_bottom() -> u64 {
    percpu::stack_top(percpu::index()) - percpu::STACK_BYTES as u64 + percpu::GUARD_BYTES
}

fn stop(frame_pointer: u64) -> ! {
    if PANICKING.swap(true, Ordering::Relaxed) {
        print(format_args!(
            "oche: panic: cpu {}: while another panic is printed\n",
            percpu::index()
        ));
        firmware::halt();
    }
    let own = identity::own();
    print(format_args!("oche: panic: Oche {own} on {}\n", own.board));
    print(format_args!(
        "oche: panic: guest ELR_EL1 {:#x}, image at {}\n",
        ElrEl12.read(),
        image::range()
    ));
    backtrace(frame_pointer);
    if let Some(hook) = PANIC_HOOK.get() {
        // Writing to the console cannot fail.
        let _ = hook(&mut console::Writer);
    }
    firmware::advise(PREFIX, |advice| advice.report);
    console::on_fatal();
    firmware::fall_back();
    if let Some(action) = ACTION.get() {
        print(format_args!("{PREFIX}stopped\n"));
        action();
    } else {
        firmware::advise(PREFIX, |advice| advice.stopped);
        print(format_args!("{PREFIX}stopped\n"));
    }
    firmware::halt()
}

/// Walks the frame records in this CPU's stack.
fn backtrace(mut frame_pointer: u64) {
    let top = percpu::stack_top(percpu::index());
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
        print(format_args!(
            "oche: panic: image+{:#x}\n",
            return_address.wrapping_sub(image::range().start)
        ));
        if next <= frame_pointer {
            return;
        }
        frame_pointer = next;
    }
}
