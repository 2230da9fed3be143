//! The serial port, polled.

use core::fmt::{self, Write};

use super::mmio;

unsafe extern "Rust" {
    safe fn guest_print(text: fmt::Arguments<'_>);
}

/// Prints on the guest's console.
pub fn print(text: fmt::Arguments<'_>) {
    guest_print(text);
}

/// A serial port.
#[derive(Clone, Copy)]
pub struct Uart {
    base: u64,
    /// Offset of the register for bytes to send.
    transmit: u64,
    /// Offset of the status register, the bit of it that counts, and its value when a byte can be
    /// sent.
    status: (u64, u32, u32),
}

impl Uart {
    /// An Arm PL011. Source: Arm DDI 0183, 3.3.3: `UARTFR.TXFF` is bit 5.
    #[must_use]
    pub const fn pl011(base: u64) -> Self {
        Self { base, transmit: 0, status: (0x18, 1 << 5, 0) }
    }

    /// The port of an Apple SoC. Source: m1n1 `src/uart_regs.h`: `UTRSTAT` (bit 1: the transmitter
    /// is empty) and `UTXH`.
    #[must_use]
    pub const fn apple(base: u64) -> Self {
        Self { base, transmit: 0x20, status: (0x10, 1 << 1, 1 << 1) }
    }

    /// Prints `text`.
    pub fn print(mut self, text: fmt::Arguments<'_>) {
        // `write_str` never fails.
        let _ = self.write_fmt(text);
    }
}

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let (status, bit, ready) = self.status;
        for byte in text.bytes() {
            while mmio::read32(self.base + status) & bit != ready {}
            mmio::write32(self.base + self.transmit, u32::from(byte));
        }
        Ok(())
    }
}
