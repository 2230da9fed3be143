//! The guest's general-purpose registers, as the vectors store them at a trap.

use core::mem::{offset_of, size_of};

/// The registers that a trap saves. EL2's code is soft-float, so the guest's FP and SIMD registers
/// are not saved.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TrapFrame {
    /// X0 to X30.
    pub registers: [u64; 31],
    /// `ELR_EL2`: where the guest continues.
    pub elr: u64,
    /// `SPSR_EL2`: the guest's PSTATE.
    pub spsr: u64,
    /// Keeps the stack 16-byte aligned.
    pub padding: u64,
}

/// `PSTATE.SS`.
pub const SPSR_SS: u64 = 1 << 21;
/// `SPSR_EL2.BTYPE`: set by branches and cleared by every other instruction.
const SPSR_BTYPE: u64 = 3 << 10;

/// Bytes that the vectors allocate on the stack.
pub const FRAME_BYTES: usize = 272;
const _: () = assert!(size_of::<TrapFrame>() == FRAME_BYTES);
const _: () = assert!(offset_of!(TrapFrame, elr) == 248);
const _: () = assert!(offset_of!(TrapFrame, spsr) == 256);

impl TrapFrame {
    /// The register with an operand's `number`; 31 is XZR.
    pub fn register(&self, number: u8) -> u64 {
        self.registers.get(usize::from(number)).copied().unwrap_or(0)
    }

    /// Writes register `number`; a write to XZR is ignored.
    pub fn set_register(&mut self, number: u8, value: u64) {
        if let Some(register) = self.registers.get_mut(usize::from(number)) {
            *register = value;
        }
    }

    /// Advances the program counter past an instruction that was carried out.
    pub(super) fn advance(&mut self) {
        self.elr = self.elr.wrapping_add(4);
        // For a guest that single-steps itself, the step is complete.
        self.spsr &= !(SPSR_BTYPE | SPSR_SS);
    }
}
