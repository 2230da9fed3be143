//! The PL011, polled, one byte at a time. The guest's driver uses it as well.

use core::ptr;

use oche_el2::console::Console;
use oche_types::range::PhysRange;

/// Source: QEMU 7.2 `hw/arm/virt.c`, `VIRT_UART`.
pub(super) const REGISTERS: PhysRange = PhysRange { start: 0x0900_0000, end: 0x0900_1000 };
/// Data register, `UARTDR`. Source: Arm DDI 0183, 3.3.1.
const DATA: u64 = 0x00;
/// Flag register, `UARTFR`; bit 5 (`TXFF`) is set while the transmit FIFO is full. Source: the
/// same, 3.3.3.
const FLAGS: u64 = 0x18;
const TRANSMIT_FULL: u32 = 1 << 5;
/// Number of polls after which a byte is dropped: some milliseconds.
const POLL_LIMIT: u32 = 1 << 16;

/// UART 0.
pub(super) struct Pl011;

impl Console for Pl011 {
    fn put(&self, byte: u8) {
        let flags = (REGISTERS.start + FLAGS) as *const u32;
        // SAFETY: `main` mapped the registers as Device memory before it named this console;
        // reading the flags has no side effect.
        let is_full = || unsafe { ptr::read_volatile(flags) } & TRANSMIT_FULL != 0;
        if (0..POLL_LIMIT).all(|_| is_full()) {
            return;
        }
        // SAFETY: as above; a byte into the FIFO.
        unsafe { ptr::write_volatile((REGISTERS.start + DATA) as *mut u32, u32::from(byte)) };
    }
}
