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
#[inline]
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
    decode(instruction).is_some_and(|access| access.kind == Operation::StoreExclusive)
}

/// An access of one register, with the rights of the level that executes it.
#[inline(always)]
fn one(kind: Operation, register: u8, bytes: u8, addressing: Addressing) -> Access {
    Access {
        kind,
        is_pair: false,
        registers: [register, 31],
        extension: Extension::Zero,
        status: 31,
        bytes,
        addressing,
        is_unprivileged: false,
    }
}

#[inline(always)]
fn exclusive_or_ordered(instruction: u32) -> Option<Access> {
    let size = field(instruction, 30, 2);
    let registers = [register(instruction, 0), register(instruction, 10)];
    let status = register(instruction, 16);
    let is_load = field(instruction, 22, 1) != 0;
    let (is_ordered, is_pair) = (field(instruction, 23, 1) != 0, field(instruction, 21, 1) != 0);
    let kind = match (is_ordered, is_pair, is_load) {
        (false, true, _) if size < 2 => return None, // CASP
        (true, true, _) => return None,              // CAS
        (true, false, true) => Operation::Load,
        (true, false, false) => Operation::Store,
        (false, _, true) if is_pair && registers[0] == registers[1] => return None,
        (false, _, true) => Operation::LoadExclusive,
        (false, _, false) => {
            let overlaps = registers[0] == status || is_pair && registers[1] == status;
            if (overlaps || status == register(instruction, 5)) && status != 31 {
                return None;
            }
            Operation::StoreExclusive
        }
    };
    let addressing = Addressing::at(register(instruction, 5), 0);
    let second = if is_pair { registers[1] } else { 31 };
    let status = if kind == Operation::StoreExclusive { status } else { 31 };
    let first = one(kind, registers[0], 1 << size, addressing);
    Some(Access { is_pair, registers: [registers[0], second], status, ..first })
}

#[inline(always)]
fn literal(instruction: u32) -> Option<Access> {
    let (bytes, extension) = match field(instruction, 30, 2) {
        0 => (4, Extension::Zero),
        1 => (8, Extension::Zero),
        2 => (4, Extension::Sign64),
        _ => return None, // PRFM
    };
    let addressing = Addressing::at(Addressing::PC, 4 * signed(instruction, 5, 19));
    let load = one(Operation::Load, register(instruction, 0), bytes, addressing);
    Some(Access { extension, ..load })
}

/// `LDAPUR` and `STLUR`.
#[inline(always)]
fn ordered_unscaled(instruction: u32) -> Option<Access> {
    if field(instruction, 21, 1) != 0 || field(instruction, 10, 2) != 0 {
        return None;
    }
    of_one(instruction, Addressing::at(register(instruction, 5), signed(instruction, 12, 9)))
}

#[inline(always)]
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
    let is_base = registers[0] == base || registers[1] == base;
    if writes_back && is_base || is_load && registers[0] == registers[1] {
        return None;
    }
    let kind = if is_load { Operation::Load } else { Operation::Store };
    let addressing = Addressing { increment, ..Addressing::at(base, offset) };
    let first = one(kind, registers[0], bytes, addressing);
    Some(Access { is_pair: true, registers, extension, ..first })
}

#[inline(always)]
fn single(instruction: u32) -> Option<Access> {
    let (base, own) = (register(instruction, 5), register(instruction, 0));
    if field(instruction, 21, 1) != 0 {
        // LDAPR, the only one in the group of atomics that only loads.
        if instruction & 0x3fff_fc00 == 0x38bf_c000 {
            let bytes = 1 << field(instruction, 30, 2);
            return Some(one(Operation::Load, own, bytes, Addressing::at(base, 0)));
        }
        if field(instruction, 10, 2) != 0b10 || field(instruction, 14, 1) == 0 {
            return None;
        }
        let shift =
            if field(instruction, 12, 1) != 0 { field(instruction, 30, 2) as u8 } else { 0 };
        let (index, option) = (register(instruction, 16), field(instruction, 13, 3) as u8);
        let addressing = Addressing { index, option, shift, ..Addressing::at(base, 0) };
        return of_one(instruction, addressing);
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
    let addressing = Addressing { increment, ..Addressing::at(base, offset) };
    let is_unprivileged = field(instruction, 10, 2) == 2;
    Some(Access { is_unprivileged, ..of_one(instruction, addressing)? })
}

#[inline(always)]
fn single_unsigned_offset(instruction: u32) -> Option<Access> {
    let offset = i64::from(field(instruction, 10, 12)) << field(instruction, 30, 2);
    of_one(instruction, Addressing::at(register(instruction, 5), offset))
}

/// A load or store of one register, by `size` and `opc`.
#[inline(always)]
fn of_one(instruction: u32, addressing: Addressing) -> Option<Access> {
    let (kind, extension) = match (field(instruction, 22, 2), field(instruction, 30, 2)) {
        (0, _) => (Operation::Store, Extension::Zero),
        (1, _) => (Operation::Load, Extension::Zero),
        (2, 0..=2) => (Operation::Load, Extension::Sign64),
        (3, 0 | 1) => (Operation::Load, Extension::Sign32),
        _ => return None, // PRFM and nothing
    };
    let bytes = 1 << field(instruction, 30, 2);
    Some(Access { extension, ..one(kind, register(instruction, 0), bytes, addressing) })
}
