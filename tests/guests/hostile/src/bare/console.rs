//! The PL011, polled.

use core::fmt::{self, Write};

/// Source: QEMU 7.2 `hw/arm/virt.c`, `VIRT_UART`.
const REGISTERS: u64 = 0x0900_0000;
/// Offset of the flags; bit 5 says that the transmit FIFO is full. Source: Arm DDI 0183, 3.3.3.
const FLAGS: u64 = 0x18;

/// Prints.
pub(super) fn print(text: fmt::Arguments<'_>) {
    // Nothing fails.
    let _ = Uart.write_fmt(text);
}

struct Uart;

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            let flags = (REGISTERS + FLAGS) as *const u32;
            // SAFETY: stage 1 maps the UART; reading its flags has no effect.
            while unsafe { flags.read_volatile() } & 1 << 5 != 0 {}
            // SAFETY: as above; a byte into the FIFO.
            unsafe { (REGISTERS as *mut u32).write_volatile(u32::from(byte)) };
        }
        Ok(())
    }
}
