//! The description of a load or store that the decoder returns.

/// A load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// What happens.
    pub kind: Operation,
    /// Number of bytes of each register: 1, 2, 4 or 8.
    pub bytes: u8,
    /// Where.
    pub addressing: Addressing,
    /// Whether the access is made with EL0's rights at any level, unless `PSTATE.UAO` is set:
    /// `LDTR`, `STTR`.
    pub is_unprivileged: bool,
}

/// What an access does, and with which registers; 31 is XZR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// One register is loaded.
    Load {
        /// Which.
        register: u8,
        /// How the value is extended.
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
        /// How the values are extended.
        extension: Extension,
    },
    /// Two registers are stored.
    StorePair {
        /// Which.
        registers: [u8; 2],
    },
    /// A load-exclusive of one or two registers.
    LoadExclusive {
        /// Which.
        registers: [u8; 2],
        /// Whether both.
        is_pair: bool,
    },
    /// A store-exclusive of one or two registers.
    StoreExclusive {
        /// The register that is set to 0 if the store succeeds and to 1 if not.
        status: u8,
        /// Which.
        registers: [u8; 2],
        /// Whether both.
        is_pair: bool,
    },
}

/// How a loaded value is extended to a register's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// With zeros.
    Zero,
    /// With the sign to 32 bits, and with zeros above.
    Sign32,
    /// With the sign to 64 bits.
    Sign64,
}

/// The addressing mode: the address of an access, and the update of its base register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// Base register (31: the stack pointer) plus a constant, in bytes.
    Base {
        /// The base register.
        base: u8,
        /// The offset of the access.
        offset: i64,
        /// What is added to the base register afterwards; 0 leaves it unchanged.
        increment: i64,
    },
    /// Base register plus another, extended and shifted.
    Index {
        /// The base register.
        base: u8,
        /// The index register.
        index: u8,
        /// `option`, bits 15:13 of the instruction: 2 UXTW, 3 LSL, 6 SXTW, 7 SXTX.
        option: u8,
        /// Number of bits to shift the index by.
        shift: u8,
    },
    /// The instruction's own address plus a constant.
    Literal {
        /// The constant, in bytes.
        offset: i64,
    },
}

impl Extension {
    /// Extends `value`, of `bytes` bytes and zero-extended, to the register's value.
    #[inline]
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
    /// Whether the operation stores: `WnR` of its faults.
    pub fn is_write(&self) -> bool {
        matches!(
            self.kind,
            Operation::Store { .. }
                | Operation::StorePair { .. }
                | Operation::StoreExclusive { .. }
        )
    }

    /// Whether two registers are loaded or stored.
    pub fn is_pair(&self) -> bool {
        match self.kind {
            Operation::Load { .. } | Operation::Store { .. } => false,
            Operation::LoadPair { .. } | Operation::StorePair { .. } => true,
            Operation::LoadExclusive { is_pair, .. }
            | Operation::StoreExclusive { is_pair, .. } => is_pair,
        }
    }

    /// Number of bytes of the whole access.
    pub fn length(&self) -> usize {
        usize::from(self.bytes) << usize::from(self.is_pair())
    }

    /// The virtual address, from the values of registers (31 is the stack pointer for a base) and
    /// the instruction's address.
    #[inline]
    pub fn address(
        &self,
        base_register: impl Fn(u8) -> u64,
        register: impl Fn(u8) -> u64,
        pc: u64,
    ) -> u64 {
        match self.addressing {
            Addressing::Base { base, offset, .. } => {
                base_register(base).wrapping_add_signed(offset)
            }
            Addressing::Index { base, index, option, shift } => {
                let index = register(index);
                let index = match option {
                    2 => u64::from(index as u32),
                    6 => i64::from(index as i32) as u64,
                    _ => index,
                };
                base_register(base).wrapping_add(index << shift)
            }
            Addressing::Literal { offset } => pc.wrapping_add_signed(offset),
        }
    }
}
