//! Loads and stores of general-purpose registers, decoded: those that a guard carries out by
//! itself.
//!
//! These are what kernels and `memcpy` do most: one register or two, any addressing, acquire and
//! release, and the exclusives, which can be done in no other way. Everything else (SIMD and FP,
//! atomics, `DC ZVA`, SVE, what later architectures add) is `None` here and is single-stepped.
//!
//! Source: Arm ARM DDI 0487, C4.1 "A64 instruction set encoding", Loads and Stores.

/// Bytes that an instruction touches at the most, as far as [`stepped_bytes`] goes.
pub const MAX_BYTES: usize = 64;

/// How many bytes `instruction`, one that is stepped, touches from the first on; [`MAX_BYTES`]
/// where its bits are not worth a decoder: structures, `DC ZVA`, SVE.
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

/// Where, in a page, `instruction`, one that is stepped, touches its first byte, when the fault was
/// at `offset`: a block that is zeroed begins at a multiple of its size, wherever in it the address
/// is.
pub fn stepped_offset(instruction: u32, offset: usize) -> usize {
    // DC ZVA, DC GVA and DC GZVA: op1 3, CRn 7, CRm 4, op2 1, 3 and 4.
    match instruction & !0x1f {
        0xd50b_7420 | 0xd50b_7460 | 0xd50b_7480 => offset & !(MAX_BYTES - 1),
        _ => offset,
    }
}

/// A load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// What happens.
    pub kind: Kind,
    /// Bytes of each register's part: 1, 2, 4 or 8.
    pub bytes: u8,
    /// Where.
    pub place: Place,
    /// It is made with EL0's rights wherever it is executed, unless `PSTATE.UAO` is set: `LDTR`,
    /// `STTR`.
    pub is_unprivileged: bool,
}

/// What an access does with which registers; 31 is XZR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One register is loaded.
    Load {
        /// Which.
        register: u8,
        /// How it is filled up.
        extension: Extension,
    },
    /// One register is stored.
    Store {
        /// Which.
        register: u8,
    },
    /// Two registers are loaded, the first from the lower address.
    LoadPair {
        /// Which.
        registers: [u8; 2],
        /// How they are filled up.
        extension: Extension,
    },
    /// Two registers are stored.
    StorePair {
        /// Which.
        registers: [u8; 2],
    },
    /// One register or two are loaded, and a store-exclusive will follow.
    LoadExclusive {
        /// Which.
        registers: [u8; 2],
        /// Whether both.
        is_pair: bool,
    },
    /// One register or two are stored if nobody stored since the load-exclusive.
    StoreExclusive {
        /// Gets 0 if they were stored and 1 if not.
        status: u8,
        /// Which.
        registers: [u8; 2],
        /// Whether both.
        is_pair: bool,
    },
}

/// How a loaded value becomes a register's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// With zeros.
    Zero,
    /// With the sign to 32 bits, and zeros above.
    Sign32,
    /// With the sign to 64 bits.
    Sign64,
}

/// Where an access goes, and what becomes of its base register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Base register (31: the stack pointer) plus a constant, in bytes.
    Base {
        /// The base register.
        base: u8,
        /// What is added for the access.
        offset: i64,
        /// What is added to the register afterwards; 0 leaves it.
        increment: i64,
    },
    /// Base register plus another, extended and shifted.
    Index {
        /// The base register.
        base: u8,
        /// The other.
        index: u8,
        /// `option`, bits 15:13 of the instruction: 2 UXTW, 3 LSL, 6 SXTW, 7 SXTX.
        option: u8,
        /// Bits to shift by.
        shift: u8,
    },
    /// The instruction's own address plus a constant.
    Literal {
        /// In bytes.
        offset: i64,
    },
}

impl Extension {
    /// The register's value for `value`, of `bytes` bytes and zero-extended.
    pub fn apply(self, value: u64, bytes: u8) -> u64 {
        let unused = 64 - 8 * u32::from(bytes.clamp(1, 8));
        let signed = ((value << unused) as i64 >> unused) as u64;
        match self {
            Self::Zero => value,
            Self::Sign32 => signed & 0xffff_ffff,
            Self::Sign64 => signed,
        }
    }
}

impl Access {
    /// Whether it stores: `WnR` of a fault that it takes.
    pub fn is_write(&self) -> bool {
        matches!(
            self.kind,
            Kind::Store { .. } | Kind::StorePair { .. } | Kind::StoreExclusive { .. }
        )
    }

    /// Whether one register or two are loaded or stored.
    pub fn is_pair(&self) -> bool {
        match self.kind {
            Kind::Load { .. } | Kind::Store { .. } => false,
            Kind::LoadPair { .. } | Kind::StorePair { .. } => true,
            Kind::LoadExclusive { is_pair, .. } | Kind::StoreExclusive { is_pair, .. } => is_pair,
        }
    }

    /// Bytes of the whole access.
    pub fn length(&self) -> usize {
        usize::from(self.bytes) << usize::from(self.is_pair())
    }

    /// The virtual address, given what registers hold (31: the stack pointer for a base) and the
    /// instruction's address.
    pub fn address(
        &self,
        base_register: impl Fn(u8) -> u64,
        register: impl Fn(u8) -> u64,
        pc: u64,
    ) -> u64 {
        match self.place {
            Place::Base { base, offset, .. } => base_register(base).wrapping_add_signed(offset),
            Place::Index { base, index, option, shift } => {
                let index = register(index);
                let index = match option {
                    2 => u64::from(index as u32),
                    6 => i64::from(index as i32) as u64,
                    _ => index,
                };
                base_register(base).wrapping_add(index << shift)
            }
            Place::Literal { offset } => pc.wrapping_add_signed(offset),
        }
    }
}

/// The access that `instruction` makes, or `None` where it is no such access, or one whose result
/// is not defined (write-back of a register that is also loaded or stored).
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

/// Whether `instruction` only computes or branches: what may stand between a load-exclusive and its
/// store-exclusive for the pair to be sure of success (Arm ARM B2.9.5), and cannot trap, wait or
/// look at PSTATE's masks. Data processing with immediates and registers, conditional and immediate
/// branches, barriers and no-ops.
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

/// Whether `instruction` may touch memory, as far as its group says: no branch, no exception, no
/// access to a system register or to PSTATE, no hint and no barrier. Of that group only the
/// maintenance instructions may.
///
/// Source: Arm ARM DDI 0487, C4.1.
pub fn may_touch_memory(instruction: u32) -> bool {
    let is_branch_or_system = instruction >> 26 & 7 == 0b101;
    // SYS and SYSL: op0 is 1.
    let is_maintenance = instruction & 0xffd8_0000 == 0xd508_0000;
    !is_branch_or_system || is_maintenance
}

/// `WFE`, `WFI`, both with a timeout, and `YIELD`: what a CPU waits by for a word to change.
pub fn is_wait(instruction: u32) -> bool {
    matches!(instruction, 0xd503_203f | 0xd503_205f | 0xd503_207f)
        || instruction & !0x3f == 0xd503_1000
}

/// `CLREX`: no store-exclusive behind it belongs to a load-exclusive before it.
pub fn gives_up_monitor(instruction: u32) -> bool {
    instruction & 0xffff_f0ff == 0xd503_305f
}

/// Whether `instruction` is a store-exclusive that is emulated.
pub fn is_store_exclusive(instruction: u32) -> bool {
    decode(instruction).is_some_and(|access| matches!(access.kind, Kind::StoreExclusive { .. }))
}

/// The three instruction sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstructionSet {
    /// AArch64's.
    A64,
    /// AArch32's of 32 bits.
    A32,
    /// AArch32's of 16 and 32 bits. The first half-word is in the upper half here.
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
        // LDREX, LDREXD, LDREXB, LDREXH, and LDAEX of each: bit 9 is set where it is an exclusive.
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

/// A field of the instruction.
fn field(instruction: u32, low: u32, bits: u32) -> u32 {
    instruction >> low & ((1 << bits) - 1)
}

fn register(instruction: u32, low: u32) -> u8 {
    field(instruction, low, 5) as u8
}

fn signed(instruction: u32, low: u32, bits: u32) -> i64 {
    let unused = 64 - bits;
    (i64::from(field(instruction, low, bits)) << unused) >> unused
}

/// An access with the rights of the level that executes it.
fn privileged(kind: Kind, bytes: u8, place: Place) -> Access {
    Access { kind, bytes, place, is_unprivileged: false }
}

fn at_base(instruction: u32) -> Place {
    Place::Base { base: register(instruction, 5), offset: 0, increment: 0 }
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
        (true, false, true) => Kind::Load { register: registers[0], extension: Extension::Zero },
        (true, false, false) => Kind::Store { register: registers[0] },
        (false, _, true) if is_pair && registers[0] == registers[1] => return None,
        (false, _, true) => Kind::LoadExclusive { registers, is_pair },
        (false, _, false) => {
            let overlaps =
                registers.iter().take(1 + usize::from(is_pair)).any(|one| *one == status);
            if (overlaps || status == register(instruction, 5)) && status != 31 {
                return None;
            }
            Kind::StoreExclusive { status, registers, is_pair }
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
    let kind = Kind::Load { register: register(instruction, 0), extension };
    Some(privileged(kind, bytes, Place::Literal { offset: 4 * signed(instruction, 5, 19) }))
}

/// `LDAPUR` and `STLUR`.
fn ordered_unscaled(instruction: u32) -> Option<Access> {
    if field(instruction, 21, 1) != 0 || field(instruction, 10, 2) != 0 {
        return None;
    }
    let place = Place::Base {
        base: register(instruction, 5),
        offset: signed(instruction, 12, 9),
        increment: 0,
    };
    Some(privileged(single_kind(instruction)?, 1 << field(instruction, 30, 2), place))
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
        Kind::LoadPair { registers, extension }
    } else {
        Kind::StorePair { registers }
    };
    Some(privileged(kind, bytes, Place::Base { base, offset, increment }))
}

fn single(instruction: u32) -> Option<Access> {
    let (base, own) = (register(instruction, 5), register(instruction, 0));
    let bytes = 1 << field(instruction, 30, 2);
    if field(instruction, 21, 1) != 0 {
        // LDAPR: the one among the atomics that only loads.
        if instruction & 0x3fff_fc00 == 0x38bf_c000 {
            let kind = Kind::Load { register: own, extension: Extension::Zero };
            return Some(privileged(kind, bytes, at_base(instruction)));
        }
        if field(instruction, 10, 2) != 0b10 || field(instruction, 14, 1) == 0 {
            return None;
        }
        let shift =
            if field(instruction, 12, 1) != 0 { field(instruction, 30, 2) as u8 } else { 0 };
        let option = field(instruction, 13, 3) as u8;
        let place = Place::Index { base, index: register(instruction, 16), option, shift };
        return Some(privileged(single_kind(instruction)?, bytes, place));
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
    let place = Place::Base { base, offset, increment };
    let is_unprivileged = field(instruction, 10, 2) == 2;
    Some(Access { is_unprivileged, ..privileged(single_kind(instruction)?, bytes, place) })
}

fn single_unsigned_offset(instruction: u32) -> Option<Access> {
    let bytes = 1 << field(instruction, 30, 2);
    let offset = i64::from(field(instruction, 10, 12)) * i64::from(bytes);
    let place = Place::Base { base: register(instruction, 5), offset, increment: 0 };
    Some(privileged(single_kind(instruction)?, bytes, place))
}

/// Load or store, by `size` and `opc`.
fn single_kind(instruction: u32) -> Option<Kind> {
    let register = register(instruction, 0);
    let extension = match (field(instruction, 22, 2), field(instruction, 30, 2)) {
        (0, _) => return Some(Kind::Store { register }),
        (1, _) => Extension::Zero,
        (2, 0..=2) => Extension::Sign64,
        (3, 0 | 1) => Extension::Sign32,
        _ => return None, // PRFM and nothing
    };
    Some(Kind::Load { register, extension })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(base: u8, offset: i64, increment: i64) -> Place {
        Place::Base { base, offset, increment }
    }

    /// Encodings as an assembler gives them.
    #[test]
    fn every_form_that_is_emulated_is_told_apart() {
        let load = |register, extension| Kind::Load { register, extension };
        let zero = Extension::Zero;
        for (instruction, kind, bytes, place) in [
            (0xf940_0441, load(1, zero), 8, base(2, 8, 0)), // ldr x1, [x2, #8]
            (0x3900_0fe1, Kind::Store { register: 1 }, 1, base(31, 3, 0)), // strb w1, [sp, #3]
            (0x38c0_1441, load(1, Extension::Sign32), 1, base(2, 0, 1)), // ldrsb w1, [x2], #1
            (0x789f_ec41, load(1, Extension::Sign64), 2, base(2, -2, -2)), // ldrsh x1, [x2, #-2]!
            (0xb880_4441, load(1, Extension::Sign64), 4, base(2, 0, 4)), // ldrsw x1, [x2], #4
            (0xf85f_8041, load(1, zero), 8, base(2, -8, 0)), // ldur x1, [x2, #-8]
            (0xf840_0841, load(1, zero), 8, base(2, 0, 0)), // ldtr x1, [x2]
            (0xc8df_fc41, load(1, zero), 8, base(2, 0, 0)), // ldar x1, [x2]
            (0x089f_fc41, Kind::Store { register: 1 }, 1, base(2, 0, 0)), // stlrb w1, [x2]
            (0xf8bf_c041, load(1, zero), 8, base(2, 0, 0)), // ldapr x1, [x2]
            (0x9900_4041, Kind::Store { register: 1 }, 4, base(2, 4, 0)), // stlur w1, [x2, #4]
            (0x5800_0041, load(1, zero), 8, Place::Literal { offset: 8 }), // ldr x1, .+8
            (
                0xb863_d841,
                load(1, zero),
                4,
                Place::Index { base: 2, index: 3, option: 6, shift: 2 }, // ldr w1, [x2, w3, sxtw #2]
            ),
            (0xa8c1_0c41, Kind::LoadPair { registers: [1, 3], extension: zero }, 8, base(2, 0, 16)), // ldp x1, x3, [x2], #16
            (0x29bf_0c41, Kind::StorePair { registers: [1, 3] }, 4, base(2, -8, -8)), // stp w1, w3, [x2, #-8]!
            (0xa840_8c41, Kind::LoadPair { registers: [1, 3], extension: zero }, 8, base(2, 8, 0)), // ldnp x1, x3, [x2, #8]
            (
                0x6940_8c41,
                Kind::LoadPair { registers: [1, 3], extension: Extension::Sign64 },
                4,
                base(2, 4, 0),
            ), // ldpsw x1, x3, [x2, #4]
            (
                0xc85f_7c41,
                Kind::LoadExclusive { registers: [1, 31], is_pair: false },
                8,
                base(2, 0, 0),
            ), // ldxr x1, [x2]
            (
                0xc824_8c41,
                Kind::StoreExclusive { status: 4, registers: [1, 3], is_pair: true },
                8,
                base(2, 0, 0),
            ), // stlxp w4, x1, x3, [x2]
        ] {
            let is_unprivileged = matches!(instruction, 0xf840_0841 | 0xb800_0841);
            let expected = Access { kind, bytes, place, is_unprivileged };
            assert_eq!(decode(instruction), Some(expected), "{instruction:#x}");
        }
    }

    #[test]
    fn stores_are_told_from_loads() {
        for (instruction, is_write) in [
            (0xf940_0041_u32, false), // ldr x1, [x2]
            (0xa840_8c41, false),     // ldnp x1, x3, [x2, #8]
            (0xc85f_7c41, false),     // ldxr x1, [x2]
            (0xf900_0041, true),      // str x1, [x2]
            (0xa900_0c41, true),      // stp x1, x3, [x2]
            (0xc804_7c43, true),      // stxr w4, x3, [x2]
            (0xc89f_fc41, true),      // stlr x1, [x2]
        ] {
            assert_eq!(
                decode(instruction).map(|access| access.is_write()),
                Some(is_write),
                "{instruction:#x}"
            );
        }
    }

    #[test]
    fn only_what_may_touch_memory_is_stepped() {
        for instruction in [
            0x3d80_0001_u32, // str q1, [x0]
            0xf821_0002,     // ldadd x1, x2, [x0]
            0xd50b_7420,     // dc zva, x0
            0xd508_7620,     // dc ivac, x0
            0x4c00_2000,     // st1 {v0-v3}, [x0]
            0xa400_4000,     // ld1b {z0.b}, p0/z, [x0, x0]
            0x1901_0440,     // cpyfp and others like it
        ] {
            assert!(may_touch_memory(instruction), "{instruction:#x}");
        }
        for instruction in [
            0xd400_0001_u32, // svc #0
            0xd400_0002,     // hvc #0
            0xd420_0000,     // brk #0
            0xd503_207f,     // wfi
            0xd503_42df,     // msr daifset, #2
            0xd53b_4220,     // mrs x0, daif
            0xd51b_4220,     // msr daif, x0
            0xd510_025f,     // msr mdscr_el1, xzr
            0xd510_1081,     // msr oslar_el1, x1
            0xd69f_03e0,     // eret
            0xd503_3fdf,     // isb
            0x1400_0000,     // b .
            0x5400_0000,     // b.eq .
            0x3600_0000,     // tbz w0, #0, .
        ] {
            assert!(!may_touch_memory(instruction), "{instruction:#x}");
        }
        assert!(
            is_wait(0xd503_205f)
                && is_wait(0xd503_207f)
                && is_wait(0xd503_1003)
                && !is_wait(0xd503_201f)
        );
    }

    #[test]
    fn load_exclusives_are_known_in_every_instruction_set() {
        use InstructionSet::{A32, A64, T32};
        for (instruction, set, is_exclusive) in [
            (0xc85f_7c41_u32, A64, true), // ldxr x1, [x2]
            (0x085f_fc41, A64, true),     // ldaxrb w1, [x2]
            (0x887f_0c41, A64, true),     // ldxp w1, w3, [x2]
            (0xc804_7c43, A64, false),    // stxr w4, x3, [x2]
            (0xc8df_fc41, A64, false),    // ldar x1, [x2]
            (0x4820_7c42, A64, false),    // casp x0, x1, x2, x3, [x2]
            (0xf940_0041, A64, false),    // ldr x1, [x2]
            (0xe199_cf9f, A32, true),     // ldrex r12, [r9]
            (0xe1d9_cf9f, A32, true),     // ldrexb r12, [r9]
            (0xe1b9_4f9f, A32, true),     // ldrexd r4, r5, [r9]
            (0xe199_ce9f, A32, true),     // ldaex r12, [r9]
            (0xe199_cc9f, A32, false),    // lda r12, [r9]
            (0xe189_af9c, A32, false),    // strex r10, r12, [r9]
            (0xe599_c000, A32, false),    // ldr r12, [r9]
            (0xe859_cf00, T32, true),     // ldrex r12, [r9]
            (0xe8d9_cf4f, T32, true),     // ldrexb r12, [r9]
            (0xe8d9_cfef, T32, true),     // ldaex r12, [r9]
            (0xe8d9_cfaf, T32, false),    // lda r12, [r9]
            (0xe849_ca00, T32, false),    // strex r10, r12, [r9]
            (0xf8d9_c000, T32, false),    // ldr.w r12, [r9]
        ] {
            assert_eq!(
                is_load_exclusive(instruction, set),
                is_exclusive,
                "{instruction:#x} in {set:?}"
            );
        }
    }

    #[test]
    fn what_is_stepped_is_no_such_access() {
        for instruction in [
            0x3dc0_0041_u32, // ldr q1, [x2]
            0xad40_0c41,     // ldp q1, q3, [x2]
            0x4c40_7041,     // ld1 {v1.16b}, [x2]
            0xf820_0041,     // ldadd x0, x1, [x2]
            0xf820_8041,     // swp x0, x1, [x2]
            0xc8a0_7c41,     // cas x0, x1, [x2]
            0x4820_7c42,     // casp x0, x1, x2, x3, [x2]
            0xd50b_7422,     // dc zva, x2
            0xf980_0040,     // prfm pldl1keep, [x2]
            0xa9c1_0c22,     // ldp x2, x3, [x1, #16]! is fine, but:
            0xf840_8442,     // ldr x2, [x2], #8
            0x1400_0000,     // b .
        ] {
            let is_decoded = decode(instruction).is_some();
            assert_eq!(is_decoded, instruction == 0xa9c1_0c22, "{instruction:#x}");
        }
    }

    #[test]
    fn only_what_computes_or_branches_is_plain() {
        for instruction in [
            0x8b0a_01ae_u32, // add x14, x13, x10
            0x1100_05ad,     // add w13, w13, #1
            0xca0a_01ae,     // eor x14, x13, x10
            0xd280_0020,     // mov x0, #1
            0x35ff_ffaf,     // cbnz w15, .-12
            0x54ff_ffa1,     // b.ne .-12
            0x3700_0040,     // tbnz w0, #0, .+8
            0x1400_0002,     // b .+8
            0xd503_3bbf,     // dmb ish
        ] {
            assert!(is_plain(instruction), "{instruction:#x}");
        }
        for instruction in [
            0xd503_207f_u32, // wfi
            0xd503_305f,     // clrex
            0xd53b_4220,     // mrs x0, daif
            0xd400_0001,     // svc #0
            0xd65f_03c0,     // ret
            0x9400_0002,     // bl .+8
            0xf940_0041,     // ldr x1, [x2]
            0x3dc0_0041,     // ldr q1, [x2]
            0x4ea1_8400,     // add v0.4s, v0.4s, v1.4s
            0x0000_0000,     // udf
        ] {
            assert!(!is_plain(instruction), "{instruction:#x}");
        }
    }

    #[test]
    fn any_word_has_an_answer_and_stays_in_bounds() {
        let mut word = 1_u32;
        for _ in 0..2_000_000 {
            word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if let Some(access) = decode(word & !(1 << 25) | 1 << 27) {
                assert!(matches!(access.bytes, 1 | 2 | 4 | 8) && access.length() <= 16);
            }
        }
    }

    #[test]
    fn addresses_and_values_are_the_architectures() {
        let index = Access {
            kind: Kind::Store { register: 0 },
            bytes: 4,
            place: Place::Index { base: 31, index: 3, option: 6, shift: 2 },
            is_unprivileged: false,
        };
        assert_eq!(index.address(|_| 0x1000, |_| 0xffff_ffff, 0), 0xffc);
        assert_eq!(Extension::Sign32.apply(0x80, 1), 0xffff_ff80);
        assert_eq!(Extension::Sign64.apply(0x8000_0000, 4), 0xffff_ffff_8000_0000);
        assert_eq!(Extension::Zero.apply(u64::MAX, 8), u64::MAX);
    }
}
