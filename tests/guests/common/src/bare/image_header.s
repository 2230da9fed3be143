    // The 64 bytes of a Linux Image's header, at the symbol `_start`. They branch to the label 1
    // behind them. Source: Linux `Documentation/arm64/booting.rst`.
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
