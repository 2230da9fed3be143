//! Device registers of 32 bits, accessed by instructions whose syndrome is valid (ISV=1).

use core::arch::asm;

/// Reads the register at `address`, which stage 1 maps as a device.
#[must_use]
pub fn read32(address: u64) -> u32 {
    let value: u32;
    // SAFETY: one load; what has no register there aborts, and the vectors handle that.
    unsafe { asm!("ldr {0:w}, [{1}]", out(reg) value, in(reg) address, options(nostack)) };
    value
}

/// Writes the register at `address`, which stage 1 maps as a device.
pub fn write32(address: u64, value: u32) {
    // SAFETY: one store, as for `read32`.
    unsafe { asm!("str {0:w}, [{1}]", in(reg) value, in(reg) address, options(nostack)) };
}

/// The registers of a device.
#[derive(Clone, Copy)]
pub struct RegisterBlock {
    /// The address of the first.
    pub base: u64,
}

impl RegisterBlock {
    /// The registers at `base`.
    #[must_use]
    pub const fn new(base: u64) -> Self {
        Self { base }
    }

    /// Reads the register at `offset`.
    #[must_use]
    pub fn read(self, offset: u64) -> u32 {
        read32(self.base + offset)
    }

    /// Writes the register at `offset`.
    pub fn write(self, offset: u64, value: u32) {
        write32(self.base + offset, value);
    }
}
