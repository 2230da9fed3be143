//! The registers of the guest that trapped on this CPU.

use aarch64_cpu::registers::{Readable, SP_EL0, SP_EL1, Writeable};

use crate::frame::TrapFrame;
use crate::guest_registers::GuestRegisters;

/// `SPSR_EL2`: the exception level; which stack pointer.
const SPSR_LEVEL: u64 = 3 << 2;
const SPSR_SELECT: u64 = 1;

/// The registers of the guest that trapped on this CPU.
pub(crate) struct FrameRegisters<'a> {
    /// What the vectors stored.
    pub(crate) frame: &'a mut TrapFrame,
}

impl FrameRegisters<'_> {
    /// EL1 with `PSTATE.SP` uses `SP_EL1`; EL0, and EL1 without, `SP_EL0`.
    fn has_own_stack_pointer(&self) -> bool {
        self.frame.spsr & SPSR_LEVEL != 0 && self.frame.spsr & SPSR_SELECT != 0
    }
}

impl GuestRegisters for FrameRegisters<'_> {
    fn get(&self, number: u8) -> u64 {
        self.frame.register(number)
    }

    fn set(&mut self, number: u8, value: u64) {
        self.frame.set_register(number, value);
    }

    fn stack_pointer(&self) -> u64 {
        if self.has_own_stack_pointer() { SP_EL1.get() } else { SP_EL0.get() }
    }

    fn set_stack_pointer(&mut self, value: u64) {
        if self.has_own_stack_pointer() { SP_EL1.set(value) } else { SP_EL0.set(value) }
    }

    fn program_counter(&self) -> u64 {
        self.frame.elr
    }
}
