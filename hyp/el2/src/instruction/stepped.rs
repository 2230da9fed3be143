//! The bytes that a single-stepped instruction accesses, as far as its encoding shows.
//!
//! Source: Arm ARM DDI 0487, C4.1 "A64 instruction set encoding", Loads and Stores.

/// Most bytes that [`stepped_bytes`] returns.
pub const MAX_BYTES: usize = 64;

/// The number of bytes that `instruction`, which is stepped, accesses. [`MAX_BYTES`] for
/// instructions that are not decoded: structures, `DC ZVA`, SVE.
pub fn stepped_bytes(instruction: u32) -> usize {
    let bits = |high: u32, low: u32| instruction >> low & ((1 << (high - low + 1)) - 1);
    let is_simd = bits(26, 26) == 1;
    match (bits(29, 27), bits(25, 24), is_simd) {
        // One SIMD register. A size of 0 with the upper bit of opc means 16 bytes.
        (0b111, _, true) if bits(23, 23) == 0 => 1 << bits(31, 30),
        (0b111, _, true) if bits(31, 30) == 0 => 16,
        // From a literal, and a pair.
        (0b011, 0, true) if bits(31, 30) != 3 => 4 << bits(31, 30),
        (0b101, _, true) if bits(31, 30) != 3 => 8 << bits(31, 30),
        // Atomics, and compare and swap, of one register and of two.
        (0b111, 0, false) if bits(21, 21) == 1 && bits(11, 10) == 0 => 1 << bits(31, 30),
        (0b001, 0, false) if bits(23, 23) == 1 && bits(21, 21) == 1 => 1 << bits(31, 30),
        (0b001, 0, false) if bits(31, 31) == 0 && bits(23, 23) == 0 && bits(21, 21) == 1 => {
            8 << bits(30, 30)
        }
        _ => MAX_BYTES,
    }
}

/// The offset in the page of the first byte that `instruction`, which is stepped, accesses if its
/// fault is at `offset`. A zeroed block begins at a multiple of its size, wherever in it the
/// address is.
pub fn stepped_offset(instruction: u32, offset: usize) -> usize {
    // DC ZVA, DC GVA and DC GZVA: op1 3, CRn 7, CRm 4, op2 1, 3 and 4.
    match instruction & !0x1f {
        0xd50b_7420 | 0xd50b_7460 | 0xd50b_7480 => offset & !(MAX_BYTES - 1),
        _ => offset,
    }
}
