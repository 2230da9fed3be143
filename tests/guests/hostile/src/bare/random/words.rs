//! The words that are executed: those that a guest survives, whatever they do to Oche.
//!
//! Source of the encodings: Arm ARM DDI 0487, C4.1 "A64 instruction set encoding".

use oche_guest_common::Random;

use super::run::{Level, WORDS};

const NOP: u32 = 0xd503_201f;

/// A program with an architecturally defined result.
pub(super) fn program(random: &mut Random, level: Level) -> [u32; WORDS] {
    match random.next() % 16 {
        0 => exclusive(random),
        1 => [maintenance(random), NOP, NOP],
        // A computed address can be anything; only EL0 can access nothing but the arena.
        2..=5 if level == Level::User => {
            [data_processing(random), access(random), data_processing(random)]
        }
        6 | 7 if level == Level::User => [access(random), access(random), access(random)],
        _ => [access(random), NOP, NOP],
    }
}

/// A word that may replace another at any moment, and may end a single step in any way.
pub(super) fn hostile(random: &mut Random) -> u32 {
    let choice = random.next();
    let register = choice as u32 >> 8 & 31;
    match choice % 32 {
        0 => 0xd400_0001,                                        // SVC
        1 => 0xd400_0002,                                        // HVC
        2 => 0xd400_0003,                                        // SMC
        3 => 0xd420_0000,                                        // BRK
        4 => 0,                                                  // UDF
        5 => 0xd510_0240 | register,                             // MSR MDSCR_EL1
        6 => 0xd510_1080 | register,                             // MSR OSLAR_EL1
        7 => 0xd510_1380 | register,                             // MSR OSDLR_EL1
        8 => 0xd503_40df | (choice as u32 >> 16 & 15) << 8,      // MSR DAIFSet
        9 => 0xd503_40ff | (choice as u32 >> 16 & 15) << 8,      // MSR DAIFClr
        10 => 0xd500_40bf | (choice as u32 >> 16 & 1) << 8,      // MSR SPSel
        11 => 0x1400_0001 + (choice as u32 >> 16 & 1),           // B, forwards
        12 => 0xd508_871f,                                       // TLBI VMALLE1
        13 => 0xd508_7800 | register,                            // AT S1E1R
        14 | 15 => 0xd530_0000 | choice as u32 >> 12 & 0xf_ffff, // MRS of anything
        16 | 17 => maintenance(random),
        18 => random_exclusive(random),
        19 => data_processing(random),
        _ => access(random),
    }
}

/// Any load or store, half of them of an encoding that exists.
fn access(random: &mut Random) -> u32 {
    /// Fixed bits, and their values: unsigned and other immediates, registers, atomics, pairs,
    /// exclusives.
    const ENCODINGS: [(u32, u32); 6] = [
        (0x3b00_0000, 0x3900_0000),
        (0x3b20_0000, 0x3800_0000),
        (0x3b20_0c00, 0x3820_0800),
        (0x3f20_8c00, 0x3820_0000),
        (0x3a00_0000, 0x2800_0000),
        (0x3f00_0000, 0x0800_0000),
    ];
    loop {
        let choice = random.next() as usize;
        let word = random.next() as u32;
        let word = match ENCODINGS.get(choice % (2 * ENCODINGS.len())) {
            Some((fixed, value)) => word & !fixed | value,
            None => word & !(1 << 25) | 1 << 27,
        };
        let field = |shift: u32| word >> shift & 31;
        let (target, base, second, status) = (field(0), field(5), field(10), field(16));
        // A literal is in the code, which is not the same for all.
        let is_literal = word >> 27 & 7 == 3 && word >> 24 & 1 == 0;
        // Of registers that are used twice the architecture leaves open what is in them.
        let is_open =
            [target, second, status].contains(&base) || target == second || target == status;
        if !is_literal && !is_open {
            return word;
        }
    }
}

/// Arithmetic on integers or vectors: a fixed pattern of bits 28:25, and all else random.
fn data_processing(random: &mut Random) -> u32 {
    const CLASSES: [u32; 6] = [0b1000, 0b1001, 0b0101, 0b1101, 0b0111, 0b1111];
    let class = CLASSES[random.next() as usize % CLASSES.len()];
    random.next() as u32 & !(0xf << 25) | class << 25
}

/// `LDXR` or `LDAXR`, an addition, and the `STXR` or `STLXR` of the same width and address.
fn exclusive(random: &mut Random) -> [u32; WORDS] {
    let choice = random.next() as u32;
    let (size, base) = (choice >> 30, choice & 7);
    let (acquire, release) = (choice >> 8 & 1, choice >> 9 & 1);
    // X8, W9 and X10 are not the base.
    let load = size << 30 | 0x085f_7c00 | acquire << 15 | base << 5 | 8;
    let add = 0x9100_0000 | (choice >> 12 & 0xfff) << 10 | 8 << 5 | 10;
    let store = size << 30 | 0x0800_7c00 | 9 << 16 | release << 15 | base << 5 | 10;
    [load, add, store]
}

/// Whether a program is such a pair.
pub(super) fn is_exclusive(words: &[u32; WORDS]) -> bool {
    words[0] & 0x3fff_7c1f == 0x085f_7c08 && words[2] & 0x3fff_7c1f == 0x0809_7c0a
}

/// One half of such a pair.
fn random_exclusive(random: &mut Random) -> u32 {
    let [load, _, store] = exclusive(random);
    if random.next() & 1 == 0 { load } else { store }
}

/// Barriers, hints, and maintenance by address.
fn maintenance(random: &mut Random) -> u32 {
    const OPERATIONS: [u32; 4] = [
        0xd50b_7420, // DC ZVA
        0xd50b_7e20, // DC CIVAC
        0xd50b_7a20, // DC CVAC
        0xd50b_7520, // IC IVAU
    ];
    const OTHERS: [u32; 6] =
        [0xd503_305f, 0xd503_3bbf, 0xd503_3b9f, 0xd503_3fdf, 0xd503_203f, 0xd503_209f];
    let choice = random.next();
    match choice & 1 {
        0 => OTHERS[(choice >> 8) as usize % OTHERS.len()],
        _ => {
            OPERATIONS[(choice >> 8) as usize % OPERATIONS.len()] & !31 | (choice >> 16) as u32 & 31
        }
    }
}
