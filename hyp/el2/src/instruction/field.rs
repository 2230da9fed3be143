//! Fields of an instruction word.

/// A field of the instruction.
pub(super) fn field(instruction: u32, low: u32, bits: u32) -> u32 {
    instruction >> low & ((1 << bits) - 1)
}

pub(super) fn register(instruction: u32, low: u32) -> u8 {
    field(instruction, low, 5) as u8
}

pub(super) fn signed(instruction: u32, low: u32, bits: u32) -> i64 {
    let unused = 64 - bits;
    (i64::from(field(instruction, low, bits)) << unused) >> unused
}
