//! The probe: a few instructions that are executed at EL1, with the MMU off, for measurements.
//!
//! They are copied to unused memory of the guest, keep all state in registers, and return by an HVC
//! that nothing else makes meanwhile.

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aarch64_cpu::registers::{MDCR_EL2, MDSCR_EL1, Readable, Writeable};
use oche_el2::fiq::hw::EndlessFiq;
use oche_el2::frame::{SPSR_SS, TrapFrame};
use oche_el2::registers::{CntpCtlEl02, CntvCtlEl02, SctlrEl12, VbarEl12, synchronize_context};
use oche_el2::{cache, cpu_setup, fiq, trap};
use oche_types::range::{PAGE, PhysRange};

/// The function ID of the call that ends a probe, in the range for vendors (Arm DEN 0028).
const END: u64 = 0x8600_f0ff;
/// [`Seen::vector`]: no exception was taken to EL1.
pub const NONE: u64 = 0;
/// [`Seen::vector`]: an IRQ.
pub const IRQ: u64 = 1;
/// [`Seen::vector`]: a FIQ.
pub const FIQ: u64 = 2;
/// [`Seen::vector`]: a FIQ that was taken to EL2, though it should reach EL1 directly.
pub const FIQ_AT_EL2: u64 = 4;
/// [`Seen::vector`]: FIQs of an unknown source that did not end.
pub const FIQ_STORM: u64 = 5;

/// `PSTATE` at EL0 with all exceptions masked, and `SCTLR_EL1.UCI`: EL0 may maintain caches.
/// Source: Arm ARM DDI 0487, by register name.
const USER_PSTATE: u64 = 0x3c0;
const SCTLR_UCI: u64 = 1 << 26;
/// `NOP`.
const NOP: u32 = 0xd503_201f;

static IS_PROBING: AtomicBool = AtomicBool::new(false);
static CODE: AtomicU64 = AtomicU64::new(0);

/// The source of an interrupt.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// It is pending already.
    Pending = 0,
    /// `CNTV`.
    VirtualTimer = 1,
    /// `CNTP`.
    PhysicalTimer = 2,
}

/// What the probe saw at EL1.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// [`NONE`], [`IRQ`], [`FIQ`], or something else.
    pub vector: u64,
    /// The number of ticks until the interrupt was taken, or of all rounds.
    pub ticks: u64,
}

impl Seen {
    fn of(result: u64) -> Self {
        Self { vector: result & 0xff, ticks: result >> 8 }
    }
}

unsafe extern "C" {
    static oche_probe_begin: u8;
    static oche_probe_end: u8;
    static oche_probe_calls: u8;
    static oche_probe_read: u8;
    static oche_probe_interrupt: u8;
    static oche_probe_operation: u8;
    static oche_probe_placeholder: u8;
    static oche_probe_vectors: u8;
    fn oche_probe_enter(entry: u64, pstate: u64, x0: u64, x1: u64) -> u64;
    fn oche_probe_leave(result: u64) -> !;
}

/// The words of a page that EL2 maps.
pub fn words(page: u64) -> &'static [AtomicU64] {
    // SAFETY: the caller names a page of RAM that EL2 maps for good, page aligned; all accesses are
    // atomic.
    unsafe { core::slice::from_raw_parts(page as *const AtomicU64, (PAGE / 8) as usize) }
}

/// Copies the instructions into the two pages at `code`.
pub fn load(code: u64) {
    let begin = (&raw const oche_probe_begin) as u64;
    let bytes = ((&raw const oche_probe_end) as u64 - begin).min(2 * PAGE) as usize;
    // SAFETY: the caller names two unused pages of RAM; the source is Oche's own text.
    unsafe { core::ptr::copy_nonoverlapping(begin as *const u8, code as *mut u8, bytes) };
    publish(PhysRange { start: code, end: code + 2 * PAGE });
    CODE.store(code, Ordering::Relaxed);
    trap::set_hypervisor_call_hook(end_if_probing);
    fiq::hw::set_probe_end(end_at_fiq);
}

/// The number of ticks that `rounds` calls take.
pub fn call(rounds: u64) -> u64 {
    run((&raw const oche_probe_calls) as u64, rounds, 0)
}

/// The word at a guest-physical address, read without caches.
pub fn read(address: u64) -> u64 {
    run((&raw const oche_probe_read) as u64, address, 0)
}

/// Waits for an interrupt, at most `limit` ticks.
pub fn interrupt(source: Source, limit: u64) -> Seen {
    Seen::of(run((&raw const oche_probe_interrupt) as u64, source as u64, limit))
}

/// Executes `instruction`, with `operand` in x0, and a barrier, `rounds` times. Only after the
/// self-test has run.
///
/// # Safety
///
/// The instruction changes no register, and no memory but the guest's.
pub unsafe fn operation(instruction: u32, operand: u64, rounds: u64) -> Seen {
    patch(instruction);
    Seen::of(run((&raw const oche_probe_operation) as u64, operand, rounds))
}

/// Executes `instruction` once at EL0, where EL1 allows cache maintenance. It ends with an
/// exception to EL1, so only what it does to EL2 is seen. Only after the self-test has run.
///
/// # Safety
///
/// As for [`operation`].
pub unsafe fn unprivileged(instruction: u32, operand: u64) {
    patch(instruction);
    let begin = (&raw const oche_probe_begin) as u64;
    cpu_setup::reset_guest();
    VbarEl12.write(CODE.load(Ordering::Relaxed) + ((&raw const oche_probe_vectors) as u64 - begin));
    SctlrEl12.write(SctlrEl12.read() | SCTLR_UCI);
    let entry = (&raw const oche_probe_placeholder) as u64;
    enter(entry, (operand, 1), USER_PSTATE);
}

/// Begins an operation that does nothing in a software step, which is taken to EL2; that
/// exception's handler clears `MDSCR_EL1.SS`. Only after the self-test has run.
pub fn step() -> Seen {
    patch(NOP);
    let entry = (&raw const oche_probe_operation) as u64;
    let before = MDCR_EL2.get();
    MDCR_EL2.set(before | MDCR_EL2::TDE::SET.value);
    let pstate = cpu_setup::GUEST_PSTATE | SPSR_SS;
    let seen = Seen::of(run_as(entry, (0, 1), pstate, MDSCR_EL1::SS::SET.value));
    MDCR_EL2.set(before);
    seen
}

/// Where an operation begins, in bytes from the first of the two pages.
pub fn operation_offset() -> u64 {
    (&raw const oche_probe_operation) as u64 - (&raw const oche_probe_begin) as u64
}

/// Puts `instruction` where the operation's is.
fn patch(instruction: u32) {
    let offset = (&raw const oche_probe_placeholder) as u64 - (&raw const oche_probe_begin) as u64;
    let place = CODE.load(Ordering::Relaxed) + offset;
    // SAFETY: inside the two pages that `load` got, which no CPU executes now.
    unsafe { (place as *mut u32).write_volatile(instruction) };
    publish(PhysRange { start: place, end: place + 4 });
}

/// Makes instructions that were stored visible to fetches at EL1, with its caches off.
fn publish(range: PhysRange) {
    cache::clean_and_invalidate(range);
    cache::synchronize_instructions(range);
}

fn run(entry: u64, x0: u64, x1: u64) -> u64 {
    run_as(entry, (x0, x1), cpu_setup::GUEST_PSTATE, 0)
}

/// Enters the probe at `entry` with `pstate` and `MDSCR_EL1` as given.
fn run_as(entry: u64, (x0, x1): (u64, u64), pstate: u64, debug_control: u64) -> u64 {
    cpu_setup::reset_guest();
    MDSCR_EL1.set(debug_control);
    // The exception return looks at it before it synchronizes the context.
    synchronize_context();
    enter(entry, (x0, x1), pstate)
}

/// Enters the probe at `entry` with `pstate`, and EL1's registers as they are.
fn enter(entry: u64, (x0, x1): (u64, u64), pstate: u64) -> u64 {
    let offset = entry - (&raw const oche_probe_begin) as u64;
    IS_PROBING.store(true, Ordering::Relaxed);
    // SAFETY: the code was put there by `load`; it comes back by its call, and changes no memory.
    let result = unsafe { oche_probe_enter(CODE.load(Ordering::Relaxed) + offset, pstate, x0, x1) };
    MDSCR_EL1.set(0);
    IS_PROBING.store(false, Ordering::Relaxed);
    result
}

/// Ends the probe if this call from EL1 is its end.
fn end_if_probing(frame: &TrapFrame) {
    if frame.register(0) == END && IS_PROBING.load(Ordering::Relaxed) {
        // SAFETY: `oche_probe_enter` waits on this very stack, below nothing that is still used.
        unsafe { oche_probe_leave(frame.register(1)) };
    }
}

/// Ends the probe at a FIQ that keeps it from going on, with its timers off.
fn end_at_fiq(why: EndlessFiq) {
    if !IS_PROBING.load(Ordering::Relaxed) {
        return;
    }
    CntvCtlEl02.write(0);
    CntpCtlEl02.write(0);
    let vector = match why {
        EndlessFiq::AtEl2 => FIQ_AT_EL2,
        EndlessFiq::Storm => FIQ_STORM,
    };
    // SAFETY: as in `end_if_probing`.
    unsafe { oche_probe_leave(vector) };
}

global_asm!(
    r#"
    .section .text.probe, "ax"
    // x0 = where at EL1, x1 = PSTATE there, x2 and x3 = its x0 and x1.
    .global oche_probe_enter
oche_probe_enter:
    stp     x29, x30, [sp, #-96]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    mov     x9, sp
    adrp    x10, {stack}
    add     x10, x10, :lo12:{stack}
    str     x9, [x10]
    msr     elr_el2, x0
    msr     spsr_el2, x1
    mov     x0, x2
    mov     x1, x3
    eret

    // x0 = the result.
    .global oche_probe_leave
oche_probe_leave:
    adrp    x10, {stack}
    add     x10, x10, :lo12:{stack}
    ldr     x9, [x10]
    mov     sp, x9
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #96
    ret

    // From here on: copied, and executed at EL1 with the MMU off.
    .balign 4096
    .global oche_probe_begin
oche_probe_begin:
    .global oche_probe_calls
oche_probe_calls:
    mov     x9, x0
    mrs     x10, cntpct_el0
1:  mov     x0, xzr
    hvc     #0
    subs    x9, x9, #1
    b.ne    1b
    isb
    mrs     x11, cntpct_el0
    sub     x1, x11, x10
    b       probe_done

    .global oche_probe_read
oche_probe_read:
    ldr     x1, [x0]

probe_done:
    movz    x0, #0xf0ff
    movk    x0, #0x8600, lsl #16
    hvc     #0
    b       probe_done

    // x0 = source, x1 = limit.
    .global oche_probe_interrupt
oche_probe_interrupt:
    adr     x9, oche_probe_vectors
    msr     vbar_el1, x9
    mov     x12, xzr
    mov     x15, #1
    mov     x16, #240
    mrs     x10, cntpct_el0
    cbz     x0, 3f
    cmp     x0, #1
    b.ne    2f
    msr     cntv_tval_el0, x16
    msr     cntv_ctl_el0, x15
    b       3f
2:  msr     cntp_tval_el0, x16
    msr     cntp_ctl_el0, x15
3:  isb
    msr     daifclr, #3
4:  mrs     x11, cntpct_el0
    sub     x13, x11, x10
    cbnz    x12, 5f
    cmp     x13, x1
    b.lo    4b
5:  msr     daifset, #3
    msr     cntv_ctl_el0, xzr
    msr     cntp_ctl_el0, xzr
    orr     x1, x12, x13, lsl #8
    b       probe_done

    // x0 = operand, x1 = rounds.
    .global oche_probe_operation
oche_probe_operation:
    adr     x9, oche_probe_vectors
    msr     vbar_el1, x9
    mov     x12, xzr
    mrs     x10, cntpct_el0
    .global oche_probe_placeholder
oche_probe_placeholder:
    nop
    dsb     sy
    subs    x1, x1, #1
    b.ne    oche_probe_placeholder
    isb
    mrs     x11, cntpct_el0
    sub     x13, x11, x10
    lsl     x1, x13, #8
    b       probe_done

    .balign 2048
    .global oche_probe_vectors
oche_probe_vectors:
    .rept   5
    .balign 128
    mov     x12, #3
    b       probe_came
    .endr
    .balign 128                         // 0x280: IRQ
    mov     x12, #1
    b       probe_came
    .balign 128                         // 0x300: FIQ
    mov     x12, #2
    b       probe_came
    .rept   9
    .balign 128
    mov     x12, #3
    b       probe_came
    .endr
probe_came:
    // An exception other than an interrupt would recur forever.
    cmp     x12, #3
    b.eq    6f
    mrs     x14, spsr_el1
    orr     x14, x14, #0xc0
    msr     spsr_el1, x14
    eret
6:  mov     x1, x12
    b       probe_done
    .global oche_probe_end
oche_probe_end:
"#,
    stack = sym STACK,
);

/// EL2's stack pointer while the probe runs.
static STACK: AtomicU64 = AtomicU64::new(0);
