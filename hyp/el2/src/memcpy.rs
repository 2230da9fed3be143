//! `memcpy` for the moves of Rust's values, which the compiler calls for all but the smallest.
//!
//! The one of the compiler's library copies byte by byte up to the first multiple of 8. The
//! engine's values are multiples of 4 bytes, at multiples of 4. Only aligned accesses are made:
//! while the MMU is off, all memory is Device memory, where others fault.
#![expect(unsafe_code, reason = "a function that the compiler calls by its name")]

use core::arch::global_asm;

global_asm!(
    r#"
    .section .text.memcpy, "ax"
    .global memcpy
    .type memcpy, %function
    // x0 = to, x1 = from, x2 = bytes; returns x0.
memcpy:
    mov     x3, x0
    orr     x4, x0, x1
    tst     x4, #7
    b.ne    2f
    subs    x2, x2, #32
    b.lo    5f
1:  ldp     x5, x6, [x1], #32
    ldp     x7, x8, [x1, #-16]
    stp     x5, x6, [x3], #32
    stp     x7, x8, [x3, #-16]
    subs    x2, x2, #32
    b.hs    1b
    // The five low bits of x2 are what is left.
5:  tbz     x2, #4, 6f
    ldp     x5, x6, [x1], #16
    stp     x5, x6, [x3], #16
6:  tbz     x2, #3, 7f
    ldr     x5, [x1], #8
    str     x5, [x3], #8
7:  tst     x2, #7
    b.ne    8f
    ret
8:  tbz     x2, #2, 9f
    ldr     w5, [x1], #4
    str     w5, [x3], #4
9:  tbz     x2, #1, 10f
    ldrh    w5, [x1], #2
    strh    w5, [x3], #2
10: tbz     x2, #0, 11f
    ldrb    w5, [x1]
    strb    w5, [x3]
11: ret
    // Not both at a multiple of 8.
2:  tst     x4, #3
    b.ne    3f
    subs    x2, x2, #16
    b.lo    13f
12: ldp     w5, w6, [x1], #16
    ldp     w7, w8, [x1, #-8]
    stp     w5, w6, [x3], #16
    stp     w7, w8, [x3, #-8]
    subs    x2, x2, #16
    b.hs    12b
    // The four low bits of x2 are what is left.
13: tbz     x2, #3, 7b
    ldp     w5, w6, [x1], #8
    stp     w5, w6, [x3], #8
    b       7b
    // Not both at a multiple of 4.
3:  cbz     x2, 11b
4:  ldrb    w5, [x1], #1
    strb    w5, [x3], #1
    subs    x2, x2, #1
    b.ne    4b
    ret
    .size memcpy, . - memcpy
"#
);
