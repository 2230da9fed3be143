//! The first instructions, of each CPU, and stage 1: one to one, registers below DRAM, memory from
//! there on.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

/// The GiB at which DRAM begins.
const DRAM_GIB: usize = 0x8_0000_0000 >> 30;

/// Valid, a block, AF; inner shareable; `MAIR` attribute 0 is memory, 1 is a device.
const MEMORY: u64 = 1 | 1 << 10 | 3 << 8;
const DEVICE: u64 = 1 | 1 << 10 | 1 << 2;

#[repr(C, align(4096))]
struct Table([u64; 512]);

static TABLE: Table = {
    let mut entries = [0; 512];
    let mut gib = 0;
    while gib < 64 {
        entries[gib] = (gib as u64) << 30 | if gib < DRAM_GIB { DEVICE } else { MEMORY };
        gib += 1;
    }
    Table(entries)
};

unsafe extern "C" {
    fn guest_secondary_entry() -> !;
}

/// Where another CPU begins.
pub(super) fn secondary_entry() -> u64 {
    guest_secondary_entry as *const () as u64
}

/// Whether this CPU is at EL1.
pub(super) fn level_is_one() -> Result<(), &'static str> {
    let level: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, CurrentEL", out(reg) level, options(nomem, nostack)) };
    if level == 1 << 2 { Ok(()) } else { Err("another level") }
}

/// Whether no timer of firmware's goes on: the booting contract has them off, whatever the stub
/// left.
pub(super) fn timers_are_off() -> Result<(), &'static str> {
    let (physical, virtual_one): (u64, u64);
    // SAFETY: reads two registers.
    unsafe {
        asm!("mrs {}, cntp_ctl_el0", "mrs {}, cntv_ctl_el0", out(reg) physical, out(reg) virtual_one,
            options(nomem, nostack))
    };
    if (physical | virtual_one) & 1 == 0 { Ok(()) } else { Err("a timer is on") }
}

global_asm!(
    r#"
    .section .text.head, "ax"
    .global _start
_start:
    b       1f
    .long   0
    .quad   0
    .quad   __image_end - _start
    .quad   0xa                         // little-endian, 4 KiB pages, anywhere
    .quad   0
    .quad   0
    .quad   0
    .ascii  "ARM\x64"
    .long   0
1:  mov     x20, x0
    adrp    x21, _start
    adrp    x9, __rela_start
    add     x9, x9, :lo12:__rela_start
    adrp    x10, __rela_end
    add     x10, x10, :lo12:__rela_end
2:  cmp     x9, x10
    b.hs    3f
    ldp     x11, x12, [x9]
    ldr     x13, [x9, #16]
    add     x9, x9, #24
    cmp     w12, #1027                  // R_AARCH64_RELATIVE
    b.ne    2b
    add     x13, x13, x21
    str     x13, [x21, x11]
    b       2b
3:  mov     x0, xzr
    bl      guest_cpu_setup
    mov     x0, x20
    bl      guest_main
    b       .

    // Another CPU: no stack yet, MMU off.
    .global guest_secondary_entry
guest_secondary_entry:
    adrp    x9, {next}
    add     x9, x9, :lo12:{next}
    ldr     x20, [x9]
    mov     x0, x20
    bl      guest_cpu_setup
    mov     x0, x20
    bl      guest_secondary
    b       .

    // x0 = this CPU's number: stack, MMU.
guest_cpu_setup:
    adrp    x9, __stacks_end
    sub     x9, x9, x0, lsl #12
    mov     sp, x9
    adrp    x9, guest_vectors
    add     x9, x9, :lo12:guest_vectors
    msr     vbar_el1, x9
    mov     x9, #(3 << 20)
    msr     cpacr_el1, x9
    mov     x9, #0x04ff
    msr     mair_el1, x9
    // TCR_EL1: 39 bits, 4 KiB granule, inner shareable write-back walks, no TTBR1, 40 bits of
    // output.
    movz    x9, #0x3519
    movk    x9, #0x8099, lsl #16
    movk    x9, #0x2, lsl #32
    msr     tcr_el1, x9
    adrp    x9, {table}
    add     x9, x9, :lo12:{table}
    msr     ttbr0_el1, x9
    isb
    tlbi    vmalle1
    dsb     nsh
    isb
    mrs     x9, sctlr_el1
    mov     x10, #0x1005                // I, C, M
    orr     x9, x9, x10
    msr     sctlr_el1, x9
    isb
    ret

    .section .text.vectors, "ax"
    .balign 2048
guest_vectors:
    .rept   6
    .balign 128
    b       guest_exception_entry
    .endr
    .balign 128
    b       guest_fiq_entry             // 0x300: FIQ from EL1 itself
    .rept   9
    .balign 128
    b       guest_exception_entry
    .endr
guest_fiq_entry:
    sub     sp, sp, #160
    stp     x0, x1, [sp]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x30, [sp, #144]
    bl      guest_fiq
    ldp     x0, x1, [sp]
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x30, [sp, #144]
    add     sp, sp, #160
    eret
guest_exception_entry:
    msr     tpidr_el1, x0
    msr     tpidr_el0, x1
    adrp    x0, {expected}
    add     x0, x0, :lo12:{expected}
    ldr     x1, [x0]
    cmp     x1, #1
    b.ne    4f
    mov     x1, #2                      // it came: go on behind the instruction
    str     x1, [x0]
    mrs     x1, esr_el1
    str     x1, [x0, #8]
    mrs     x1, far_el1
    str     x1, [x0, #16]
    mrs     x1, elr_el1
    add     x1, x1, #4
    msr     elr_el1, x1
    mrs     x0, tpidr_el1
    mrs     x1, tpidr_el0
    eret
4:  mrs     x0, esr_el1
    mrs     x1, elr_el1
    mrs     x2, far_el1
    b       guest_exception
"#,
    table = sym TABLE,
    next = sym super::cpus::NEXT,
    expected = sym EXPECTED,
);

/// 1 while an exception is expected, 2 once it has come; then its `ESR_EL1` and `FAR_EL1`.
static EXPECTED: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

/// Whether `access`, one load or store, ends in an exception. The flags may be lost.
pub(super) fn faults(access: impl FnOnce()) -> bool {
    EXPECTED[0].store(1, Ordering::SeqCst);
    access();
    EXPECTED[0].swap(0, Ordering::SeqCst) == 2
}

/// Whether `access`, one load or store at `address`, ends in a synchronous external abort there.
/// The flags may be lost.
pub(super) fn aborts_at(address: u64, is_store: bool, access: impl FnOnce()) -> bool {
    let has_faulted = faults(access);
    let [_, syndrome, at] = EXPECTED.each_ref().map(|word| word.load(Ordering::SeqCst));
    // EC 0x25, WnR, DFSC of a synchronous external abort, not on a table walk.
    let is_external = syndrome >> 26 == 0x25 && syndrome & 0x3f == 0x10;
    has_faulted && is_external && (syndrome >> 6 & 1 != 0) == is_store && at == address
}

/// Nothing else here is meant to fault.
#[unsafe(no_mangle)]
extern "C" fn guest_exception(syndrome: u64, at: u64, address: u64) -> ! {
    panic!("exception: ESR {syndrome:#x} ELR {at:#x} FAR {address:#x}")
}
