//! ISV=0 accesses to a device's registers: pairs, write-back, and single-precision vector
//! registers. The instruction is decoded and carried out part by part.
//!
//! Compilers generate such stores for loops over registers (rust-lang/rust#131894), and U-Boot
//! accesses registers through plain pointers (`arch/arm/include/asm/io.h`). A part is what the
//! instruction transfers as a unit: 4 bytes for each register of a pair of `w` registers. The
//! device refuses a width that it does not support. Exclusives, atomics and wide vector registers
//! are not supported.

#[cfg(target_os = "none")]
pub mod hw;

use oche_types::addr::PAGE_BYTES;

use crate::guest_registers::GuestRegisters;
use crate::instruction::{self, Access, Extension, Operation};

/// Set in a load or store of vector registers. Source: Arm ARM DDI 0487, C4.1.
const VECTOR: u32 = 1 << 26;

/// The guest's vector registers, for 32-bit accesses.
pub trait Vectors {
    /// The low 32 bits of register 0 to 31.
    fn single(&self, number: u8) -> u32;
    /// Sets the low 32 bits of register 0 to 31 and clears the others.
    fn set_single(&mut self, number: u8, value: u32);
}

/// Why an access to a device fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoError {
    /// No register supports the access: the guest takes an external abort.
    NoRegister,
    /// The access needs more than the work of one trap: the guest repeats it.
    Again,
}

/// The result of an access: the loaded value; for a store it is ignored.
pub type IoResult = Result<u64, IoError>;

/// One part of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Bytes from the start of the page.
    pub offset: usize,
    /// Number of bytes: 1, 2, 4 or 8.
    pub bytes: usize,
    /// The value to store, zero-extended; `None` for a load.
    pub write: Option<u64>,
}

/// The access that `instruction` makes, and whether it is one of vector registers.
fn decode(instruction: u32) -> Option<(Access, bool)> {
    let is_vector =
        instruction & VECTOR != 0 && instruction >> 27 & 1 != 0 && instruction >> 25 & 1 == 0;
    if !is_vector {
        let access = instruction::decode(instruction)?;
        let is_exclusive =
            matches!(access.kind, Operation::LoadExclusive | Operation::StoreExclusive);
        return (!is_exclusive).then_some((access, false));
    }
    // Loads and stores of structures have no counterpart with general-purpose registers.
    if instruction >> 27 & 7 == 0b001 {
        return None;
    }
    // Single-precision registers are encoded as 32-bit general-purpose registers are. Other sizes
    // are encoded differently, and no device register is that wide.
    let access = instruction::decode(instruction & !VECTOR)?;
    let is_plain = match access.kind {
        Operation::Load => access.extension == Extension::Zero,
        Operation::Store => true,
        Operation::LoadExclusive | Operation::StoreExclusive => false,
    };
    (access.bytes == 4 && is_plain).then_some((access, true))
}

/// Whether `instruction`, read again after the fault, can have caused a fault of this direction.
/// True for any instruction that is not emulated.
pub fn agrees(instruction: u32, is_write: bool) -> bool {
    decode(instruction).is_none_or(|(access, _)| access.is_write() == is_write)
}

/// Carries out the load or store `instruction`, which faulted at the virtual address `far`, on the
/// device in that page. `device` performs each part.
///
/// # Errors
///
/// The device's error, or [`IoError::NoRegister`] if the instruction is not supported or accesses
/// bytes beyond the page. The registers are unchanged then.
pub fn carry_out(
    instruction: u32,
    far: u64,
    registers: &mut (impl GuestRegisters + Vectors),
    mut device: impl FnMut(Part) -> IoResult,
) -> Result<(), IoError> {
    let (access, is_vector) = decode(instruction).ok_or(IoError::NoRegister)?;
    let address = registers.address(&access);
    let first = address as usize % PAGE_BYTES;
    let is_same_page = (address ^ far) << 8 >> 20 == 0;
    if !is_same_page || first + access.length() > PAGE_BYTES {
        return Err(IoError::NoRegister);
    }
    let bytes = usize::from(access.bytes);
    let part = |index: usize, write| Part { offset: first + index * bytes, bytes, write };
    let stored = |number: u8| match is_vector {
        true => u64::from(registers.single(number)),
        false => registers.get(number) << (64 - 8 * bytes as u32) >> (64 - 8 * bytes as u32),
    };
    let mut loaded = [(0, 0); 2];
    let numbers = match access.kind {
        Operation::Store => {
            for (index, register) in access.registers().iter().enumerate() {
                device(part(index, Some(stored(*register))))?;
            }
            &[]
        }
        Operation::Load => access.registers(),
        Operation::LoadExclusive | Operation::StoreExclusive => return Err(IoError::NoRegister),
    };
    for (index, (register, loaded)) in numbers.iter().zip(&mut loaded).enumerate() {
        *loaded = (*register, device(part(index, None))?);
    }
    for (register, value) in loaded.into_iter().take(numbers.len()) {
        match is_vector {
            true => registers.set_single(register, value as u32),
            false => registers.set(register, access.extension.apply(value, access.bytes)),
        }
    }
    registers.write_back(&access);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    struct File {
        general: [u64; 32],
        vector: [u32; 32],
    }

    impl GuestRegisters for File {
        fn get(&self, number: u8) -> u64 {
            if number == 31 { 0 } else { self.general[usize::from(number)] }
        }
        fn set(&mut self, number: u8, value: u64) {
            self.general[usize::from(number)] = value;
        }
        fn stack_pointer(&self) -> u64 {
            self.general[31]
        }
        fn set_stack_pointer(&mut self, value: u64) {
            self.general[31] = value;
        }
        fn program_counter(&self) -> u64 {
            0
        }
    }

    impl Vectors for File {
        fn single(&self, number: u8) -> u32 {
            self.vector[usize::from(number)]
        }
        fn set_single(&mut self, number: u8, value: u32) {
            self.vector[usize::from(number)] = value;
        }
    }

    /// Encodings from `aarch64-linux-gnu-as`.
    const STR_POST: u32 = 0xb800_4401; // str w1, [x0], #4
    const LDR_PRE: u32 = 0xb840_4c01; // ldr w1, [x0, #4]!
    const STP: u32 = 0x2900_0801; // stp w1, w2, [x0]
    const LDP_POST: u32 = 0x28c1_0801; // ldp w1, w2, [x0], #8
    const STR_SINGLE: u32 = 0xbd00_0403; // str s3, [x0, #4]
    const LDP_SINGLE: u32 = 0x2d40_1003; // ldp s3, s4, [x0]
    const STR_QUAD: u32 = 0x3d80_0003; // str q3, [x0]
    const STP_QUAD: u32 = 0xad00_1003; // stp q3, q4, [x0]
    const STRUCTURE: u32 = 0x4c00_7803; // st1 {v3.4s}, [x0]
    const EXCLUSIVE: u32 = 0x885f_7c01; // ldxr w1, [x0]

    fn run(instruction: u32) -> (Result<(), IoError>, File, Vec<Part>) {
        let mut file = File::default();
        file.general[..3].copy_from_slice(&[0xffff_0000_0000_2100, 0x1_0000_0011, 0x2_0000_0022]);
        (file.vector[3], file.vector[4]) = (0x33, 0x44);
        let mut parts = Vec::new();
        let done = carry_out(instruction, 0xffff_0000_0000_2100, &mut file, |part| {
            parts.push(part);
            Ok(0x70 + parts.len() as u64)
        });
        (done, file, parts)
    }

    fn part(offset: usize, write: Option<u64>) -> Part {
        Part { offset, bytes: 4, write }
    }

    #[test]
    fn write_back_moves_the_base_and_a_pair_is_two_parts() {
        let (done, file, parts) = run(STR_POST);
        assert_eq!((done, parts), (Ok(()), vec![part(0x100, Some(0x11))]));
        assert_eq!(file.general[0], 0xffff_0000_0000_2104);
        let (_, file, parts) = run(LDR_PRE);
        assert_eq!(parts, [part(0x104, None)]);
        assert_eq!(file.general[..2], [0xffff_0000_0000_2104, 0x71]);
        assert_eq!(run(STP).2, [part(0x100, Some(0x11)), part(0x104, Some(0x22))]);
        let (_, file, parts) = run(LDP_POST);
        assert_eq!(parts, [part(0x100, None), part(0x104, None)]);
        assert_eq!(file.general[..3], [0xffff_0000_0000_2108, 0x71, 0x72]);
    }

    #[test]
    fn a_vector_register_of_32_bits_is_a_register_like_others() {
        assert_eq!(run(STR_SINGLE).2, [part(0x104, Some(0x33))]);
        let (done, file, parts) = run(LDP_SINGLE);
        assert_eq!((done, parts.len()), (Ok(()), 2));
        assert_eq!(file.vector[3..5], [0x71, 0x72]);
    }

    #[test]
    fn what_no_device_takes_touches_none() {
        for instruction in [STR_QUAD, STP_QUAD, STRUCTURE, EXCLUSIVE, 0xd503_201f] {
            let (done, _, parts) = run(instruction);
            assert_eq!((done, parts), (Err(IoError::NoRegister), Vec::new()), "{instruction:#x}");
        }
    }

    #[test]
    fn a_part_that_is_refused_leaves_the_registers() {
        for error in [IoError::NoRegister, IoError::Again] {
            let mut file = File::default();
            let before = file.clone();
            let answer = |part: Part| if part.offset == 0 { Ok(5) } else { Err(error) };
            assert_eq!(carry_out(LDP_POST, 0, &mut file, answer), Err(error));
            assert_eq!(file, before);
        }
    }

    #[test]
    fn a_load_that_became_a_store_does_not_agree_with_its_fault() {
        let (load, store) = (0xf940_0041, 0xf900_0041); // ldr x1, [x2]; str x1, [x2]
        assert!(agrees(load, false) && agrees(store, true));
        assert!(!agrees(load, true) && !agrees(store, false));
        // Not carried out in either direction.
        assert!(agrees(0xd503_201f, false) && agrees(0xd503_201f, true));
    }

    #[test]
    fn no_instruction_does_more_than_two_parts_inside_the_page() {
        for upper in 0..=u16::MAX {
            let mut count = 0;
            let _ =
                carry_out(u32::from(upper) << 16 | 0x0401, 0xff8, &mut File::default(), |part| {
                    assert!(part.offset + part.bytes <= PAGE_BYTES);
                    count += 1;
                    Ok(0)
                });
            assert!(count <= 2);
        }
    }
}
