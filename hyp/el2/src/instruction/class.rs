//! Classes of instructions: those that may be stepped, and those allowed in an exclusive sequence.

use super::field::field;

/// Whether `instruction` only computes or branches: data processing with immediates and registers,
/// conditional and immediate branches, barriers and no-ops. These are allowed between a
/// load-exclusive and its store-exclusive with guaranteed progress (Arm ARM B2.9.5), and cannot
/// trap, wait or read PSTATE's masks.
pub fn is_plain(instruction: u32) -> bool {
    let is_computation = matches!(instruction >> 25 & 0xf, 0b1000 | 0b1001 | 0b0101 | 0b1101);
    let is_branch = matches!(instruction >> 26 & 0x1f, 0b0_0101) && instruction >> 31 == 0
        || instruction >> 25 & 0x3f == 0b01_1010
        || instruction >> 25 & 0x3f == 0b01_1011
        || instruction & 0xff00_0010 == 0x5400_0000;
    // DMB and NOP.
    let is_quiet = instruction & 0xffff_f0ff == 0xd503_30bf || instruction == 0xd503_201f;
    is_computation || is_branch || is_quiet
}

/// Whether `instruction` may access memory, from its encoding group: it is not a branch, an
/// exception, a hint, a barrier, or an access to a system register or PSTATE. Of the system
/// instructions, only cache and TLB maintenance may.
///
/// Source: Arm ARM DDI 0487, C4.1.
pub fn may_touch_memory(instruction: u32) -> bool {
    let is_branch_or_system = instruction >> 26 & 7 == 0b101;
    // SYS and SYSL: op0 is 1.
    let is_maintenance = instruction & 0xffd8_0000 == 0xd508_0000;
    !is_branch_or_system || is_maintenance
}

/// `WFE`, `WFI`, both with a timeout, and `YIELD`: used to wait for a word to change.
pub fn is_wait(instruction: u32) -> bool {
    matches!(instruction, 0xd503_203f | 0xd503_205f | 0xd503_207f)
        || instruction & !0x3f == 0xd503_1000
}

/// `CLREX`: it ends an exclusive sequence.
pub fn gives_up_monitor(instruction: u32) -> bool {
    instruction & 0xffff_f0ff == 0xd503_305f
}

/// The three instruction sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstructionSet {
    /// A64.
    A64,
    /// A32.
    A32,
    /// T32. The first half-word is in the upper half of the `u32`.
    T32,
}

/// Whether `instruction` is a load-exclusive, whatever it loads. Source: Arm ARM DDI 0487, C4.1,
/// F4.1 ("Load/Store Exclusive and Load-Acquire/Store-Release") and F3.1 ("Load/store exclusive",
/// "Load/store exclusive byte/half/dual").
pub fn is_load_exclusive(instruction: u32, set: InstructionSet) -> bool {
    let bits = |low: u32, count: u32| field(instruction, low, count);
    match set {
        // o0 and the registers do not matter; with a size below 4 bytes a pair is CASP.
        InstructionSet::A64 => {
            bits(24, 6) == 0b00_1000
                && bits(22, 2) == 0b01
                && (bits(21, 1) == 0 || bits(31, 1) == 1)
        }
        // LDREX, LDREXD, LDREXB, LDREXH, and LDAEX of each: bit 9 is set in an exclusive.
        InstructionSet::A32 => {
            bits(23, 5) == 0b00011 && bits(20, 1) == 1 && bits(4, 4) == 0b1001 && bits(9, 1) == 1
        }
        // LDREX; then LDREXB, H, D and LDAEX, B, H, D by bits 7:4.
        InstructionSet::T32 => {
            bits(20, 12) == 0xe85
                || bits(20, 12) == 0xe8d && matches!(bits(4, 4), 0x4 | 0x5 | 0x7 | 0xc..=0xf)
        }
    }
}

#[cfg(test)]
mod tests;
