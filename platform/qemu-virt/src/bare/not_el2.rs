//! The entry at EL1, if QEMU runs without `virtualization=on`: prints one line on the UART and
//! turns the machine off.

use core::arch::global_asm;

use super::uart::REGISTERS;

global_asm!(
    r#"
    .section .text.not_el2, "ax"
    // The MMU is off, there is no stack, and nothing is relocated, so only PC-relative addresses
    // are used. QEMU's UART always has room.
    .global oche_not_el2
oche_not_el2:
    adr     x1, 3f
    mov     x2, #{uart}
1:  ldrb    w3, [x1], #1
    cbz     w3, 2f
    str     w3, [x2]
    b       1b
2:  mov     x0, #0x0008                 // PSCI SYSTEM_OFF; without an EL2 QEMU takes it by HVC
    movk    x0, #0x8400, lsl #16
    hvc     #0
    b       2b
3:  .asciz  "oche: fatal: not entered at EL2 (QEMU: -M virt,virtualization=on)\r\n"
    .balign 4
"#,
    uart = const REGISTERS.start,
);
