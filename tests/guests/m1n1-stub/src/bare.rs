//! The stub's code and data.
//!
//! The host fills in the words behind the header: 0x40 the image's entry, 0x48 the FDT, 0x50 the
//! number of CPUs, 0x58 a bit for each CPU that never leaves, 0x60 whether timers and IPIs raise
//! FIQs, 0x68 a bit for each CPU that stays away once it has returned from a function, 0x70 one for
//! each CPU whose EL2 timer raises no FIQ. The table at 0x1000 has 64 bytes for each CPU: its flag,
//! its target, its arguments.

use core::arch::global_asm;

global_asm!(
    r#"
    // HCR_EL2 as m1n1 leaves it: API 41, APK 40, TEA 37, E2H 34, RW 31, TGE 27, AMO 5, IMO 4, FMO
    // 3.
    .equ HCR_HIGH, 0x324
    .equ HCR_LOW_HIGH, 0x8800
    .equ HCR_LOW_LOW, 0x0038
    // SCTLR_EL2 with M, C and I cleared, the rest as m1n1 had it.
    .equ SCTLR_HIGH, 0x3090
    .equ SCTLR_LOW, 0x0080
"#,
    include_str!("../../common/src/bare/image_header.s"),
    r#"
    .quad   0                           // 0x40: entry
    .quad   0                           // 0x48: FDT
    .quad   0                           // 0x50: CPUs
    .quad   0                           // 0x58: CPUs that never leave
    .quad   0                           // 0x60: FIQs
    .quad   0                           // 0x68: CPUs that stay away
    .quad   0                           // 0x70: CPUs without EL2's timer
1:  adrp    x19, _start
    mov     x20, #1
2:  ldr     x21, [x19, #0x50]
    cmp     x20, x21
    b.hs    4f
    mov     x0, #0x0003                 // PSCI CPU_ON: QEMU's way to start a CPU
    movk    x0, #0xc400, lsl #16
    mov     x1, x20
    adr     x2, secondary
    mov     x3, x20
    smc     #0
    add     x22, x19, #0x1000
    add     x22, x22, x20, lsl #6
3:  ldr     x9, [x22]
    cbz     x9, 3b
    add     x20, x20, #1
    b       2b
4:  mov     x20, xzr
    bl      leave_state
    ldr     x9, [x19, #0x40]
    ldr     x0, [x19, #0x48]
    mov     x1, xzr
    mov     x2, xzr
    mov     x3, xzr
    mov     x4, xzr
    mov     x10, #0x1c0                 // A, I and F masked, D not
    msr     daif, x10
    br      x9

secondary:
    mov     x20, x0
    adrp    x19, _start
    bl      leave_state
    mov     x10, #0xc0                  // SError not masked
    msr     daif, x10
    add     x22, x19, #0x1000
    add     x22, x22, x20, lsl #6
    ldr     x11, [x19, #0x58]
    lsr     x11, x11, x20
    mov     x9, #1
    str     x9, [x22]
    tbz     x11, #0, 6f
5:  wfe
    b       5b
6:  wfe
    ldr     x9, [x22, #8]
    cbz     x9, 6b
    ldr     x10, [x22]
    add     x10, x10, #1
    str     x10, [x22]
    ldp     x0, x1, [x22, #16]
    ldp     x2, x3, [x22, #32]
    mov     x23, sp
    blr     x9
    mov     x9, sp                      // a function keeps the stack as a C compiler assumes
    cmp     x9, x23
    b.ne    5b
    ldr     x11, [x19, #0x68]
    lsr     x11, x11, x20
    tbnz    x11, #0, 5b
    str     xzr, [x22, #8]
    b       6b

    // x19 = this image, x20 = this CPU's number.
leave_state:
    mov     x9, #HCR_LOW_LOW
    movk    x9, #HCR_LOW_HIGH, lsl #16
    movk    x9, #HCR_HIGH, lsl #32
    msr     hcr_el2, x9
    isb
    mov     x9, #SCTLR_LOW
    movk    x9, #SCTLR_HIGH, lsl #16
    msr     sctlr_el2, x9
    add     x9, x19, #0x800
    msr     vbar_el2, x9
    msr     S3_5_C12_C0_0, x9           // VBAR_EL12
    mov     x9, #3
    msr     S3_5_C14_C2_1, x9           // CNTP_CTL_EL02: on, masked
    msr     S3_5_C14_C3_1, x9           // CNTV_CTL_EL02
    msr     tpidr_el2, x20
    msr     oslar_el1, xzr
    adrp    x9, stacks_end
    add     x9, x9, :lo12:stacks_end
    sub     x9, x9, x20, lsl #12
    mov     sp, x9
    isb
    ldr     x9, [x19, #0x60]
    cbnz    x9, wire
    ret

    // On a Mac the timers (interrupts 26 of EL2, 27, 30) and IPIs (1) are wired as FIQs. On QEMU
    // they are FIQs as a GIC's interrupts of group 0. None is masked. The priorities let EL2 mask
    // the guest's timers, 0xa0, and neither IPIs, 0x40, nor its own timer, 0x20. Source: Arm IHI
    // 0069; QEMU 7.2 `hw/arm/virt.c`.
wire:
    mov     x9, #0xf
    msr     S3_4_C12_C9_5, x9           // ICC_SRE_EL2
    isb
    movz    x9, #0x0800, lsl #16        // the distributor
    mov     w10, #0x11
    str     w10, [x9]                   // GICD_CTLR: ARE, EnableGrp0
    movz    x9, #0x080a, lsl #16        // this CPU's redistributor
    add     x9, x9, x20, lsl #17
    str     wzr, [x9, #0x14]            // GICR_WAKER
7:  ldr     w10, [x9, #0x14]
    tbnz    w10, #2, 7b
    add     x9, x9, #0x10, lsl #12      // its second frame
    str     wzr, [x9, #0x80]            // GICR_IGROUPR0
    str     wzr, [x9, #0xd00]           // GICR_IGRPMODR0
    mov     w10, #0x40
    strb    w10, [x9, #0x401]           // GICR_IPRIORITYR, from 0x400 on
    mov     w10, #0x20
    strb    w10, [x9, #0x41a]
    mov     w10, #0xa0
    strb    w10, [x9, #0x41b]
    strb    w10, [x9, #0x41e]
    mov     w10, #0x2
    movk    w10, #0x4c00, lsl #16
    ldr     x11, [x19, #0x70]
    lsr     x11, x11, x20
    tbz     x11, #0, 8f
    and     w10, w10, #~(1 << 26)
8:  str     w10, [x9, #0x100]           // GICR_ISENABLER0
    dsb     sy
    mov     x9, #0xff
    msr     S3_0_C4_C6_0, x9            // ICC_PMR_EL1
    mov     x9, #1
    msr     S3_0_C12_C12_6, x9          // ICC_IGRPEN0_EL1
    isb
    ret

    // EL2's vectors: every exception is fatal.
    .org _start + 0x800
    .rept   16
    .balign 128
    b       .
    .endr
    .org _start + 0x1000
    .space  1024

    // 4 KiB for each of 16 CPUs.
    .section .bss.stacks, "aw", %nobits
    .balign 4096
    .space  16 * 4096
stacks_end:
"#
);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
