//! The first instructions of each CPU: Image header, relocation, stack, vectors and stage 1.
//!
//! Stage 1 translates 39 bits in each half of the address space, in 4 KiB pages. Both halves begin
//! with the guest's table.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};

use super::cpu::MAX_CPUS;

/// Entries of a table.
pub const ENTRIES: usize = 512;
/// A block of memory: valid, AF, inner shareable, `MAIR` attribute 0.
pub const MEMORY: u64 = 1 | 1 << 10 | 3 << 8;
/// A block of device registers: valid, AF, `MAIR` attribute 1.
pub const DEVICE: u64 = 1 | 1 << 10 | 1 << 2;

/// A translation table.
#[repr(C, align(4096))]
pub struct Table([AtomicU64; ENTRIES]);

impl Table {
    /// A table of `entries`.
    #[must_use]
    pub const fn new(entries: [u64; ENTRIES]) -> Self {
        let mut table = [const { AtomicU64::new(0) }; ENTRIES];
        let mut index = 0;
        while index < ENTRIES {
            table[index] = AtomicU64::new(entries[index]);
            index += 1;
        }
        Self(table)
    }
}

/// Bytes of a CPU's stack, as a power of two.
const STACK_SHIFT: usize = 14;

/// The stacks, the first CPU's last.
#[repr(C, align(16))]
struct Stacks(UnsafeCell<[[u8; 1 << STACK_SHIFT]; MAX_CPUS]>);

// SAFETY: each CPU uses its own stack, and none is accessed by this name.
unsafe impl Sync for Stacks {}

static STACKS: Stacks = Stacks(UnsafeCell::new([[0; 1 << STACK_SHIFT]; MAX_CPUS]));

unsafe extern "C" {
    safe static GUEST_STAGE1: Table;
    fn guest_secondary_entry() -> !;
}

/// Sets an entry of the guest's first level. The caller does the TLB maintenance.
pub fn set_stage1(index: usize, entry: u64) {
    GUEST_STAGE1.0[index].store(entry, Ordering::SeqCst);
}

/// The address at which another CPU begins, with its number in x0 and its MMU off.
#[must_use]
pub fn secondary() -> u64 {
    guest_secondary_entry as *const () as u64
}

global_asm!(
    include_str!("image_header.s"),
    r#"
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
    adrp    x9, {stacks}
    add     x9, x9, :lo12:{stacks}
    add     x9, x9, #({stacks_bytes} >> 12), lsl #12
    sub     x9, x9, x0, lsl #{stack_shift}
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
    adrp    x9, GUEST_STAGE1
    add     x9, x9, :lo12:GUEST_STAGE1
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
    stacks = sym STACKS,
    stacks_bytes = const size_of::<Stacks>(),
    stack_shift = const STACK_SHIFT,
);
