//! The serial port, polled.

use core::fmt::{self, Write};

/// UART 0. Source: Linux `arch/arm64/boot/dts/apple/t8103.dtsi`, `serial0`.
const REGISTERS: u64 = 0x2_3520_0000;
/// Offsets of `UTRSTAT` (bit 1: empty) and `UTXH`. Source: m1n1 `src/uart_regs.h`.
const STATUS: u64 = 0x10;
const TRANSMIT: u64 = 0x20;

/// Prints.
pub(super) fn print(text: fmt::Arguments<'_>) {
    // Nothing fails.
    super::fiq::quietly(|| _ = Uart.write_fmt(text));
}

struct Uart;

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: stage 1 maps the UART; reading its status has no effect.
            while unsafe { ((REGISTERS + STATUS) as *const u32).read_volatile() } & 2 == 0 {}
            // SAFETY: as above; a byte to send.
            unsafe { ((REGISTERS + TRANSMIT) as *mut u32).write_volatile(u32::from(byte)) };
        }
        Ok(())
    }
}
