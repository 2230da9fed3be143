//! The decoder of the loads and stores of general-purpose registers that EL2 emulates.
//!
//! It accepts any word and returns `None` for instructions that are not listed here.
//!
//! Source: Arm ARM DDI 0487, C4.1 "A64 instruction set encoding", Loads and Stores.

use super::access::{Access, Addressing, Extension, Operation};
use super::field::{field, register, signed};

#[cfg(test)]
mod tests;

/// Decodes `instruction`. Returns `None` if it is no such access, or one with an unpredictable
/// result (write-back of a register that is also loaded or stored).
pub fn decode(instruction: u32) -> Option<Access> {
    match instruction >> 24 & 0x3f {
        0b00_1000 => exclusive_or_ordered(instruction),
        0b01_1000 => literal(instruction),
        0b01_1001 => ordered_unscaled(instruction),
        0b10_1000 | 0b10_1001 => pair(instruction),
        0b11_1000 => single(instruction),
        0b11_1001 => single_unsigned_offset(instruction),
        _ => None,
    }
}

/// Whether `instruction` is a store-exclusive that EL2 emulates.
pub fn is_store_exclusive(instruction: u32) -> bool {
    decode(instruction)
        .is_some_and(|access| matches!(access.kind, Operation::StoreExclusive { .. }))
}

/// An access with the rights of the level that executes it.
fn privileged(kind: Operation, bytes: u8, addressing: Addressing) -> Access {
    Access { kind, bytes, addressing, is_unprivileged: false }
}

fn at_base(instruction: u32) -> Addressing {
    Addressing::Base { base: register(instruction, 5), offset: 0, increment: 0 }
}

fn exclusive_or_ordered(instruction: u32) -> Option<Access> {
    let size = field(instruction, 30, 2);
    let registers = [register(instruction, 0), register(instruction, 10)];
    let status = register(instruction, 16);
    let is_load = field(instruction, 22, 1) != 0;
    let (is_ordered, is_pair) = (field(instruction, 23, 1) != 0, field(instruction, 21, 1) != 0);
    let kind = match (is_ordered, is_pair, is_load) {
        (false, true, _) if size < 2 => return None, // CASP
        (true, true, _) => return None,              // CAS
        (true, false, true) => {
            Operation::Load { register: registers[0], extension: Extension::Zero }
        }
        (true, false, false) => Operation::Store { register: registers[0] },
        (false, _, true) if is_pair && registers[0] == registers[1] => return None,
        (false, _, true) => Operation::LoadExclusive { registers, is_pair },
        (false, _, false) => {
            let overlaps =
                registers.iter().take(1 + usize::from(is_pair)).any(|one| *one == status);
            if (overlaps || status == register(instruction, 5)) && status != 31 {
                return None;
            }
            Operation::StoreExclusive { status, registers, is_pair }
        }
    };
    Some(privileged(kind, 1 << size, at_base(instruction)))
}

fn literal(instruction: u32) -> Option<Access> {
    let (bytes, extension) = match field(instruction, 30, 2) {
        0 => (4, Extension::Zero),
        1 => (8, Extension::Zero),
        2 => (4, Extension::Sign64),
        _ => return None, // PRFM
    };
    let kind = Operation::Load { register: register(instruction, 0), extension };
    Some(privileged(kind, bytes, Addressing::Literal { offset: 4 * signed(instruction, 5, 19) }))
}

/// `LDAPUR` and `STLUR`.
fn ordered_unscaled(instruction: u32) -> Option<Access> {
    if field(instruction, 21, 1) != 0 || field(instruction, 10, 2) != 0 {
        return None;
    }
    let addressing = Addressing::Base {
        base: register(instruction, 5),
        offset: signed(instruction, 12, 9),
        increment: 0,
    };
    Some(privileged(single_kind(instruction)?, 1 << field(instruction, 30, 2), addressing))
}

fn pair(instruction: u32) -> Option<Access> {
    let (bytes, extension) = match field(instruction, 30, 2) {
        0 => (4_u8, Extension::Zero),
        1 => (4, Extension::Sign64),
        2 => (8, Extension::Zero),
        _ => return None,
    };
    let is_load = field(instruction, 22, 1) != 0;
    let mode = field(instruction, 23, 2);
    // STGP, and what would be LDNPSW.
    if extension == Extension::Sign64 && (!is_load || mode == 0) {
        return None;
    }
    let (base, registers) =
        (register(instruction, 5), [register(instruction, 0), register(instruction, 10)]);
    let amount = signed(instruction, 15, 7) * i64::from(bytes);
    let (offset, increment) = match mode {
        1 => (0, amount),
        3 => (amount, amount),
        _ => (amount, 0),
    };
    let writes_back = matches!(mode, 1 | 3) && base != 31;
    if writes_back && registers.contains(&base) || is_load && registers[0] == registers[1] {
        return None;
    }
    let kind = if is_load {
        Operation::LoadPair { registers, extension }
    } else {
        Operation::StorePair { registers }
    };
    Some(privileged(kind, bytes, Addressing::Base { base, offset, increment }))
}

fn single(instruction: u32) -> Option<Access> {
    let (base, own) = (register(instruction, 5), register(instruction, 0));
    let bytes = 1 << field(instruction, 30, 2);
    if field(instruction, 21, 1) != 0 {
        // LDAPR, the only one in the group of atomics that only loads.
        if instruction & 0x3fff_fc00 == 0x38bf_c000 {
            let kind = Operation::Load { register: own, extension: Extension::Zero };
            return Some(privileged(kind, bytes, at_base(instruction)));
        }
        if field(instruction, 10, 2) != 0b10 || field(instruction, 14, 1) == 0 {
            return None;
        }
        let shift =
            if field(instruction, 12, 1) != 0 { field(instruction, 30, 2) as u8 } else { 0 };
        let option = field(instruction, 13, 3) as u8;
        let addressing =
            Addressing::Index { base, index: register(instruction, 16), option, shift };
        return Some(privileged(single_kind(instruction)?, bytes, addressing));
    }
    let amount = signed(instruction, 12, 9);
    let (offset, increment) = match field(instruction, 10, 2) {
        1 => (0, amount),
        3 => (amount, amount),
        _ => (amount, 0),
    };
    if field(instruction, 10, 1) != 0 && base == own && base != 31 {
        return None;
    }
    let addressing = Addressing::Base { base, offset, increment };
    let is_unprivileged = field(instruction, 10, 2) == 2;
    Some(Access { is_unprivileged, ..privileged(single_kind(instruction)?, bytes, addressing) })
}

fn single_unsigned_offset(instruction: u32) -> Option<Access> {
    let bytes = 1 << field(instruction, 30, 2);
    let offset = i64::from(field(instruction, 10, 12)) * i64::from(bytes);
    let addressing = Addressing::Base { base: register(instruction, 5), offset, increment: 0 };
    Some(privileged(single_kind(instruction)?, bytes, addressing))
}

/// Load or store, by `size` and `opc`.
fn single_kind(instruction: u32) -> Option<Operation> {
    let register = register(instruction, 0);
    let extension = match (field(instruction, 22, 2), field(instruction, 30, 2)) {
        (0, _) => return Some(Operation::Store { register }),
        (1, _) => Extension::Zero,
        (2, 0..=2) => Extension::Sign64,
        (3, 0 | 1) => Extension::Sign32,
        _ => return None, // PRFM and nothing
    };
    Some(Operation::Load { register, extension })
}
