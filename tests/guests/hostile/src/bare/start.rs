//! The first instructions, of each CPU, and stage 1.
//!
//! Stage 1 maps guest-physical addresses one to one: the first GiB as a device, the next seven as
//! memory. A second view of the first GiB at [`DEVICES_AS_MEMORY`] is memory, where unaligned
//! accesses, `DC ZVA` and fetches reach stage 2 instead of failing before. TTBR1 is on and leads to
//! nothing yet.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// Where the first GiB is memory for stage 1.
pub(super) const DEVICES_AS_MEMORY: u64 = 0x40_0000_0000;
/// Where devices from 256 GiB on are, which a high ECAM is among.
pub(super) const HIGH_DEVICES: u64 = DEVICES_AS_MEMORY + (1 << 30);
/// The lowest address that TTBR1 translates.
pub(super) const UPPER: u64 = 0xffff_ff80_0000_0000;

/// Valid, a block, AF; inner shareable; `MAIR` attribute 0 is memory, 1 is a device.
const MEMORY: u64 = 1 | 1 << 10 | 3 << 8;
const DEVICE: u64 = 1 | 1 << 10 | 1 << 2;

#[repr(C, align(4096))]
struct Table([AtomicU64; 512]);

static TABLE: Table = {
    let mut entries = [const { AtomicU64::new(0) }; 512];
    entries[0] = AtomicU64::new(DEVICE);
    let mut gib = 1;
    while gib < 8 {
        entries[gib] = AtomicU64::new((gib as u64) << 30 | MEMORY);
        gib += 1;
    }
    entries[(DEVICES_AS_MEMORY >> 30) as usize] = AtomicU64::new(MEMORY);
    entries[(HIGH_DEVICES >> 30) as usize] = AtomicU64::new(256 << 30 | DEVICE);
    Table(entries)
};

/// Sets an entry of the first level.
pub(super) fn set_table_entry(index: usize, entry: u64) {
    TABLE.0[index].store(entry, Ordering::SeqCst);
}

unsafe extern "C" {
    fn guest_secondary_entry() -> !;
}

/// Where another CPU begins; x0 is its number.
pub(super) fn secondary_entry() -> u64 {
    guest_secondary_entry as *const () as u64
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

    .global guest_secondary_entry
guest_secondary_entry:
    mov     x20, x0
    bl      guest_cpu_setup
    mov     x0, x20
    bl      guest_secondary
    b       .

    // x0 = this CPU's number: stack, vectors, floating point, MMU.
guest_cpu_setup:
    adrp    x9, __stacks_end
    sub     x9, x9, x0, lsl #14
    mov     sp, x9
    adrp    x9, guest_vectors
    add     x9, x9, :lo12:guest_vectors
    msr     vbar_el1, x9
    mov     x9, #(3 << 20)
    msr     cpacr_el1, x9
    mov     x9, #0x04ff
    msr     mair_el1, x9
    // TCR_EL1: 39 bits each, 4 KiB granule each, inner shareable write-back walks, 40 bits of
    // output.
    movz    x9, #0x3519
    movk    x9, #0xb519, lsl #16
    movk    x9, #0x2, lsl #32
    msr     tcr_el1, x9
    adrp    x9, {table}
    add     x9, x9, :lo12:{table}
    msr     ttbr0_el1, x9
    msr     ttbr1_el1, x9
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
"#,
    table = sym TABLE,
);
