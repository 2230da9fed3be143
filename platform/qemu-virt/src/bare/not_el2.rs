//! Entered at EL1: QEMU runs without `virtualization=on`. One line on the UART, and off.

use core::arch::global_asm;

use super::uart::REGISTERS;

global_asm!(
    r#"
    .section .text.not_el2, "ax"
    // MMU off, no stack, nothing relocated: only addresses relative to the PC. QEMU's UART always
    // has room.
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
