//! Groups of words through vector registers, four of 128 bits at a time.
//!
//! The registers are the guest's. A trap does not save them: each function here saves those that it
//! uses, on EL2's stack, and restores them. EL2 takes no interrupts, and none of the instructions
//! reads or writes FPCR or FPSR.
//!
//! With SVE or SME, a write to a vector register clears what lies above its 128 bits, which would
//! be lost to the guest. So [`permit`] has the words handled one by one on such a machine. Source:
//! Arm ARM DDI 0487, B1.2, "Registers in AArch64 Execution state".
//!
//! A structure load or store with elements of 64 bits accesses each aligned element once, with
//! single-copy atomicity. Source: Arm ARM DDI 0487, B2.2.1, "Requirements for single-copy
//! atomicity".

use core::arch::global_asm;
use core::sync::atomic::{AtomicU8, Ordering};

/// Whether vector registers are free for EL2: not known yet, on each CPU so far, or not on one.
static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const FREE: u8 = 1;
const NOT_FREE: u8 = 2;

/// Notes whether this CPU `is_plain`: it has neither SVE nor SME. Called on each CPU when EL2 can
/// access its vector registers, before the guest's first instruction on it.
pub fn permit(is_plain: bool) {
    if !is_plain {
        STATE.store(NOT_FREE, Ordering::Relaxed);
    } else if STATE.load(Ordering::Relaxed) == UNKNOWN {
        // The first CPU: the others have not started.
        STATE.store(FREE, Ordering::Relaxed);
    }
}

/// Whether vector registers may be used.
#[inline(always)]
pub(super) fn are_free() -> bool {
    STATE.load(Ordering::Relaxed) == FREE
}

unsafe extern "C" {
    /// # Safety
    ///
    /// As for `words::equal_groups`, if vector registers may be used.
    #[link_name = "oche_equal_groups"]
    pub(super) fn equal_groups(one: *const u64, other: *const u64, groups: usize) -> usize;

    /// # Safety
    ///
    /// As for `words::groups_of`, if vector registers may be used.
    #[link_name = "oche_groups_of"]
    pub(super) fn groups_of(page: *const u64, value: u64, groups: usize) -> usize;

    /// # Safety
    ///
    /// As for `words::copy_groups`, if vector registers may be used.
    #[link_name = "oche_copy_groups"]
    pub(super) fn copy_groups(from: *const u64, to: *mut u64, groups: usize);

    /// # Safety
    ///
    /// As for `words::fill_page`, with so many groups, if vector registers may be used.
    #[link_name = "oche_fill_groups"]
    pub(super) fn fill_groups(to: *mut u64, value: u64, groups: usize);
}

// x0 to x2 are the arguments. v16 collects the bits in which words differ, of eight groups or of
// one.
global_asm!(
    r#"
    .section .text.vectors, "ax"
    .arch_extension simd

    .macro save_vectors
    sub     sp, sp, #144
    mov     x9, sp
    st1     {{v0.2d-v3.2d}}, [x9], #64
    st1     {{v4.2d-v7.2d}}, [x9], #64
    str     q16, [x9]
    .endm

    .macro restore_vectors
    mov     x9, sp
    ld1     {{v0.2d-v3.2d}}, [x9], #64
    ld1     {{v4.2d-v7.2d}}, [x9], #64
    ldr     q16, [x9]
    add     sp, sp, #144
    .endm

    // Adds the differences between v0 to v3 and four other registers to v16.
    .macro differences a, b, c, d
    eor     v0.16b, v0.16b, \a\().16b
    eor     v1.16b, v1.16b, \b\().16b
    eor     v2.16b, v2.16b, \c\().16b
    eor     v3.16b, v3.16b, \d\().16b
    orr     v0.16b, v0.16b, v1.16b
    orr     v2.16b, v2.16b, v3.16b
    orr     v16.16b, v16.16b, v0.16b
    orr     v16.16b, v16.16b, v2.16b
    .endm

    // x9 becomes 0 if no bit of v16 is set.
    .macro any_difference
    umaxp   v16.4s, v16.4s, v16.4s
    fmov    x9, d16
    .endm

    .global oche_equal_groups
    .type   oche_equal_groups, %function
oche_equal_groups:
    save_vectors
    mov     x3, x2
1:  subs    x3, x3, #8
    b.lo    2f
    mov     x4, x0
    mov     x5, x1
    movi    v16.2d, #0
    .rept 8
    ld1     {{v0.2d-v3.2d}}, [x0], #64
    ld1     {{v4.2d-v7.2d}}, [x1], #64
    differences v4, v5, v6, v7
    .endr
    any_difference
    cbz     x9, 1b
    // One of these eight differs.
    mov     x0, x4
    mov     x1, x5
2:  add     x3, x3, #8
3:  cbz     x3, 4f
    movi    v16.2d, #0
    ld1     {{v0.2d-v3.2d}}, [x0], #64
    ld1     {{v4.2d-v7.2d}}, [x1], #64
    differences v4, v5, v6, v7
    any_difference
    cbnz    x9, 4f
    sub     x3, x3, #1
    b       3b
4:  restore_vectors
    sub     x0, x2, x3
    ret

    .global oche_groups_of
    .type   oche_groups_of, %function
oche_groups_of:
    save_vectors
    dup     v4.2d, x1
    mov     x3, x2
1:  subs    x3, x3, #8
    b.lo    2f
    mov     x4, x0
    movi    v16.2d, #0
    .rept 8
    ld1     {{v0.2d-v3.2d}}, [x0], #64
    differences v4, v4, v4, v4
    .endr
    any_difference
    cbz     x9, 1b
    // One of these eight differs.
    mov     x0, x4
2:  add     x3, x3, #8
3:  cbz     x3, 4f
    movi    v16.2d, #0
    ld1     {{v0.2d-v3.2d}}, [x0], #64
    differences v4, v4, v4, v4
    any_difference
    cbnz    x9, 4f
    sub     x3, x3, #1
    b       3b
4:  restore_vectors
    sub     x0, x2, x3
    ret

    .global oche_copy_groups
    .type   oche_copy_groups, %function
oche_copy_groups:
    save_vectors
1:  subs    x2, x2, #8
    b.lo    2f
    .rept 4
    ld1     {{v0.2d-v3.2d}}, [x0], #64
    ld1     {{v4.2d-v7.2d}}, [x0], #64
    st1     {{v0.2d-v3.2d}}, [x1], #64
    st1     {{v4.2d-v7.2d}}, [x1], #64
    .endr
    b       1b
2:  adds    x2, x2, #8
    b.eq    4f
3:  ld1     {{v0.2d-v3.2d}}, [x0], #64
    st1     {{v0.2d-v3.2d}}, [x1], #64
    subs    x2, x2, #1
    b.ne    3b
4:  restore_vectors
    ret

    .global oche_fill_groups
    .type   oche_fill_groups, %function
oche_fill_groups:
    save_vectors
    dup     v0.2d, x1
    mov     v1.16b, v0.16b
    mov     v2.16b, v0.16b
    mov     v3.16b, v0.16b
1:  subs    x2, x2, #8
    b.lo    2f
    .rept 8
    st1     {{v0.2d-v3.2d}}, [x0], #64
    .endr
    b       1b
2:  adds    x2, x2, #8
    b.eq    4f
3:  st1     {{v0.2d-v3.2d}}, [x0], #64
    subs    x2, x2, #1
    b.ne    3b
4:  restore_vectors
    ret

    .purgem save_vectors
    .purgem restore_vectors
    .purgem differences
    .purgem any_difference
    .arch_extension nosimd
"#
);
