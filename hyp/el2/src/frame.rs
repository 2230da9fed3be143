//! A trapped guest's general-purpose registers, as the vectors store them.

use core::mem::{offset_of, size_of};

/// Everything that a trap saves. EL2's code is soft-float, so the guest's FP and SIMD state stays
/// in place.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TrapFrame {
    /// X0 to X30.
    pub registers: [u64; 31],
    /// `ELR_EL2`: where the guest goes on.
    pub elr: u64,
    /// `SPSR_EL2`: its PSTATE.
    pub spsr: u64,
    /// Keeps the stack 16-byte aligned.
    pub padding: u64,
}

/// `PSTATE.SS`.
pub(super) const SPSR_SS: u64 = 1 << 21;
/// `SPSR_EL2.BTYPE`: set by branches and cleared by every other instruction.
const SPSR_BTYPE: u64 = 3 << 10;

/// Bytes that the vectors make room for.
pub const FRAME_BYTES: usize = 272;
const _: () = assert!(size_of::<TrapFrame>() == FRAME_BYTES);
const _: () = assert!(offset_of!(TrapFrame, elr) == 248);
const _: () = assert!(offset_of!(TrapFrame, spsr) == 256);

impl TrapFrame {
    /// Register `number` of an instruction's operand: 31 is XZR.
    pub fn register(&self, number: u8) -> u64 {
        self.registers.get(usize::from(number)).copied().unwrap_or(0)
    }

    /// Writes register `number`; XZR swallows it.
    pub fn set_register(&mut self, number: u8, value: u64) {
        if let Some(register) = self.registers.get_mut(usize::from(number)) {
            *register = value;
        }
    }

    /// Goes on behind an instruction that has been carried out.
    pub(super) fn advance(&mut self) {
        self.elr = self.elr.wrapping_add(4);
        // A guest that steps itself finds its step done.
        self.spsr &= !(SPSR_BTYPE | SPSR_SS);
    }
}
