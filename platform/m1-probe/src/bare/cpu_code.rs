//! What each CPU measures of itself: a function that m1n1's loop calls with the MMU off, and that
//! returns to it with every register as it was.
//!
//! It is position independent, uses aligned loads and stores only and no exclusives, since without
//! its MMU a CPU's memory is Device, and takes every exception itself: one that it takes ends the
//! function early.

use core::sync::atomic::AtomicU64;

use oche_types::MAX_CPUS;

/// Registers of the identification space: four groups of eight.
pub(super) const ID_REGISTERS: usize = 32;

/// The values of [`Record::state`]: the CPU has not entered, has, has finished, or took an
/// exception.
pub(super) const ENTERED: u64 = 1;
pub(super) const FINISHED: u64 = 2;
pub(super) const FAULTED: u64 = 3;

/// What one CPU reads and writes. The assembly uses the offsets.
#[repr(C, align(512))]
#[derive(Debug)]
pub(super) struct Record {
    /// The CPU that this is for: `MPIDR_EL1`'s affinity.
    pub(super) affinity: AtomicU64,
    pub(super) state: AtomicU64,
    /// Whether to execute WFI.
    pub(super) is_to_wait: AtomicU64,
    stack: AtomicU64,
    masks: AtomicU64,
    vectors: AtomicU64,
    pub(super) syndrome: AtomicU64,
    pub(super) exception_link: AtomicU64,
    pub(super) far: AtomicU64,
    pub(super) midr: AtomicU64,
    pub(super) hcr: AtomicU64,
    pub(super) sctlr: AtomicU64,
    pub(super) counter_hertz: AtomicU64,
    /// On Apple's CPUs: CTRR's bounds and control, `HID4` or `EHID4`, `VM_TMR_FIQ_ENA_EL2`,
    /// `L2C_ERR_STS`.
    pub(super) ctrr: [AtomicU64; 3],
    pub(super) cache_control: AtomicU64,
    pub(super) timer_fiq: AtomicU64,
    pub(super) l2c_status: AtomicU64,
    /// Bits that were lost in any register during WFI; and the counter when the timer was due, and
    /// when WFI ended.
    pub(super) lost: AtomicU64,
    pub(super) due: AtomicU64,
    pub(super) woken: AtomicU64,
    pub(super) ids: [AtomicU64; ID_REGISTERS],
}

impl Record {
    const fn new() -> Self {
        Self {
            // The affinity of no CPU.
            affinity: AtomicU64::new(u64::MAX),
            state: AtomicU64::new(0),
            is_to_wait: AtomicU64::new(0),
            stack: AtomicU64::new(0),
            masks: AtomicU64::new(0),
            vectors: AtomicU64::new(0),
            syndrome: AtomicU64::new(0),
            exception_link: AtomicU64::new(0),
            far: AtomicU64::new(0),
            midr: AtomicU64::new(0),
            hcr: AtomicU64::new(0),
            sctlr: AtomicU64::new(0),
            counter_hertz: AtomicU64::new(0),
            ctrr: [const { AtomicU64::new(0) }; 3],
            cache_control: AtomicU64::new(0),
            timer_fiq: AtomicU64::new(0),
            l2c_status: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            due: AtomicU64::new(0),
            woken: AtomicU64::new(0),
            ids: [const { AtomicU64::new(0) }; ID_REGISTERS],
        }
    }
}

pub(super) static RECORDS: [Record; MAX_CPUS] = [const { Record::new() }; MAX_CPUS];

unsafe extern "C" {
    /// Measures the CPU that calls it.
    pub(super) fn oche_probe_cpu();
}

macro_rules! offset {
    ($field:ident) => {
        core::mem::offset_of!(Record, $field)
    };
}

core::arch::global_asm!(
    r#"
    .section .text.cpu, "ax"

    // x19 = the record of this CPU, or 0. Clobbers x9 to x12.
    .macro find_record
    mrs     x9, mpidr_el1
    mov     x10, #0xffffff              // Aff2, Aff1, Aff0 in 23:0, Aff3 in 39:32
    movk    x10, #0xff, lsl #32
    and     x9, x9, x10
    adrp    x19, {records}
    add     x19, x19, :lo12:{records}
    mov     x11, #{count}
10: ldr     x12, [x19, #{affinity}]
    cmp     x12, x9
    b.eq    11f
    add     x19, x19, #{bytes}
    subs    x11, x11, #1
    b.ne    10b
    mov     x19, xzr
11:
    .endm

    .macro note register, offset
    mrs     x9, \register
    str     x9, [x19, #\offset]
    .endm

    // The registers of one group of the identification space.
    .macro id_group group
    .irp number, 0, 1, 2, 3, 4, 5, 6, 7
    mrs     x9, S3_0_C0_C\group\()_\number
    str     x9, [x10], #8
    .endr
    .endm

    .global oche_probe_cpu
    .type oche_probe_cpu, %function
oche_probe_cpu:
    stp     x29, x30, [sp, #-96]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    find_record
    cbz     x19, 9f
    mov     x9, sp
    str     x9, [x19, #{stack}]
    note    daif, {masks}
    note    vbar_el2, {vectors}
    msr     daifset, #0xf
    adrp    x9, oche_probe_cpu_vectors
    add     x9, x9, :lo12:oche_probe_cpu_vectors
    msr     vbar_el2, x9
    isb
    mov     x9, #{entered}
    str     x9, [x19, #{state}]
    dsb     sy
    note    hcr_el2, {hcr}
    note    sctlr_el2, {sctlr}
    note    cntfrq_el0, {counter_hertz}
    add     x10, x19, #{ids}
    id_group 4
    id_group 5
    id_group 6
    id_group 7
    note    midr_el1, {midr}
    lsr     x10, x9, #24
    cmp     x10, #0x61                  // Apple
    b.ne    3f
    ubfx    x10, x9, #4, #12
    cmp     x10, #0x22                  // an E core
    b.ne    1f
    note    S3_0_C15_C4_1, {cache_control}
    b       2f
1:  cmp     x10, #0x23                  // a P core
    b.ne    3f
    note    S3_0_C15_C4_0, {cache_control}
2:  note    S3_4_C15_C2_3, {ctrr}
    note    S3_4_C15_C2_4, {ctrr}+8
    note    S3_4_C15_C2_5, {ctrr}+16
    note    S3_5_C15_C1_3, {timer_fiq}
    note    S3_3_C15_C8_0, {l2c_status}
3:  ldr     x9, [x19, #{is_to_wait}]
    cbz     x9, 4f
    bl      probe_wait
4:  mov     x10, #{finished}
    // x10 = the state, x19 = the record.
probe_end:
    ldr     x9, [x19, #{vectors}]
    msr     vbar_el2, x9
    isb
    ldr     x9, [x19, #{masks}]
    msr     daif, x9
    dsb     sy
    str     x10, [x19, #{state}]
    dsb     sy
9:  ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #96
    ret

    // Waits for EL2's timer, which is due a millisecond from now, with a value in each register.
    // All interrupts are masked: the one that is pending ends the WFI and is not taken.
probe_wait:
    stp     x30, x19, [sp, #-48]!
    mrs     x9, cnthp_cval_el2
    mrs     x10, cnthp_ctl_el2
    stp     x9, x10, [sp, #16]
    mrs     x9, cntfrq_el0
    lsr     x9, x9, #10
    msr     cnthp_tval_el2, x9
    mov     x9, #1
    msr     cnthp_ctl_el2, x9
    isb
    mrs     x9, cnthp_cval_el2
    str     x9, [x19, #{due}]
    dsb     sy
    .irp    number, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
    mov     x\number, #(0x100 + \number)
    .endr
    wfi
    sub     x0, x0, #0x100
    .irp    number, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
    sub     x\number, x\number, #(0x100 + \number)
    orr     x0, x0, x\number
    .endr
    isb
    mrs     x1, cntpct_el0
    ldp     x30, x19, [sp]
    str     x0, [x19, #{lost}]
    str     x1, [x19, #{woken}]
    ldp     x9, x10, [sp, #16]
    msr     cnthp_ctl_el2, xzr
    isb
    msr     cnthp_cval_el2, x9
    msr     cnthp_ctl_el2, x10
    isb
    add     sp, sp, #48
    ret

    .balign 2048
oche_probe_cpu_vectors:
    .rept   16
    .balign 128
    b       probe_fault
    .endr
probe_fault:
    find_record
    note    esr_el2, {syndrome}
    note    elr_el2, {exception_link}
    note    far_el2, {far}
    ldr     x9, [x19, #{stack}]
    mov     sp, x9
    mov     x10, #{faulted}
    b       probe_end
"#,
    records = sym RECORDS,
    count = const MAX_CPUS,
    bytes = const size_of::<Record>(),
    affinity = const offset!(affinity),
    state = const offset!(state),
    is_to_wait = const offset!(is_to_wait),
    stack = const offset!(stack),
    masks = const offset!(masks),
    vectors = const offset!(vectors),
    syndrome = const offset!(syndrome),
    exception_link = const offset!(exception_link),
    far = const offset!(far),
    midr = const offset!(midr),
    hcr = const offset!(hcr),
    sctlr = const offset!(sctlr),
    counter_hertz = const offset!(counter_hertz),
    ctrr = const offset!(ctrr),
    cache_control = const offset!(cache_control),
    timer_fiq = const offset!(timer_fiq),
    l2c_status = const offset!(l2c_status),
    lost = const offset!(lost),
    due = const offset!(due),
    woken = const offset!(woken),
    ids = const offset!(ids),
    entered = const ENTERED,
    finished = const FINISHED,
    faulted = const FAULTED,
);
