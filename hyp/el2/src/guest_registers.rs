//! The guest's registers that emulated loads and stores use.

#[cfg(target_os = "none")]
pub(crate) mod hw;

use crate::instruction::{Access, Addressing};

/// The register number that is the stack pointer as a base register, and zero otherwise.
const STACK_POINTER: u8 = 31;

/// A guest's registers.
pub trait GuestRegisters {
    /// Reads register 0 to 30; register 31 is zero.
    fn get(&self, number: u8) -> u64;
    /// Sets register 0 to 30; a write to 31 is ignored.
    fn set(&mut self, number: u8, value: u64);
    /// Reads the current stack pointer.
    fn stack_pointer(&self) -> u64;
    /// Sets the current stack pointer.
    fn set_stack_pointer(&mut self, value: u64);
    /// The instruction's address.
    fn program_counter(&self) -> u64;

    /// The virtual address of `access`.
    #[inline(always)]
    fn address(&self, access: &Access) -> u64 {
        access.address(|base| self.base(base), |number| self.get(number), self.program_counter())
    }

    /// Updates the base register of `access` according to its addressing mode.
    #[inline(always)]
    fn write_back(&mut self, access: &Access) {
        let Addressing { base, increment, .. } = access.addressing;
        if increment == 0 {
            return;
        }
        let value = self.base(base).wrapping_add_signed(increment);
        if base == STACK_POINTER {
            self.set_stack_pointer(value);
        } else {
            self.set(base, value);
        }
    }

    /// The value of a base register.
    fn base(&self, number: u8) -> u64 {
        if number == STACK_POINTER { self.stack_pointer() } else { self.get(number) }
    }
}
