//! A load or store as the decoder describes it: what it does with which registers, and where.

/// A load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// What happens.
    pub kind: Operation,
    /// Bytes of each register's part: 1, 2, 4 or 8.
    pub bytes: u8,
    /// Where.
    pub addressing: Addressing,
    /// It is made with EL0's rights wherever it is executed, unless `PSTATE.UAO` is set: `LDTR`,
    /// `STTR`.
    pub is_unprivileged: bool,
}

/// What an access does with which registers; 31 is XZR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
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
    /// One register or two are stored if nothing stored there since the load-exclusive.
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
pub enum Addressing {
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
            Operation::Store { .. }
                | Operation::StorePair { .. }
                | Operation::StoreExclusive { .. }
        )
    }

    /// Whether one register or two are loaded or stored.
    pub fn is_pair(&self) -> bool {
        match self.kind {
            Operation::Load { .. } | Operation::Store { .. } => false,
            Operation::LoadPair { .. } | Operation::StorePair { .. } => true,
            Operation::LoadExclusive { is_pair, .. }
            | Operation::StoreExclusive { is_pair, .. } => is_pair,
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
