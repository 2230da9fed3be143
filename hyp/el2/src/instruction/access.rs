//! The description of a load or store that the decoder returns.

/// A load or store. It is flat, so that a decoder that is inlined leaves nothing in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// What happens.
    pub kind: Operation,
    /// Whether two registers are loaded or stored, the first from the lower address.
    pub is_pair: bool,
    /// Which registers; 31 is XZR, and the second if there is only one.
    pub registers: [u8; 2],
    /// How loaded values are extended.
    pub extension: Extension,
    /// The register that a store-exclusive sets to 0 if it succeeds and to 1 if not; 31 otherwise.
    pub status: u8,
    /// Number of bytes of each register: 1, 2, 4 or 8.
    pub bytes: u8,
    /// Where.
    pub addressing: Addressing,
    /// Whether the access is made with EL0's rights at any level, unless `PSTATE.UAO` is set:
    /// `LDTR`, `STTR`.
    pub is_unprivileged: bool,
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It loads.
    Load,
    /// It stores.
    Store,
    /// It is a load-exclusive.
    LoadExclusive,
    /// It is a store-exclusive.
    StoreExclusive,
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
pub struct Addressing {
    /// The base register; 31 is the stack pointer, and [`Self::PC`] the instruction's own address.
    pub base: u8,
    /// The offset of the access from the base, in bytes.
    pub offset: i64,
    /// What is added to the base register afterwards; 0 leaves it unchanged.
    pub increment: i64,
    /// A register that is added to the base, extended and shifted, unless it is 31.
    pub index: u8,
    /// How it is extended: `option`, bits 15:13 of the instruction: 2 UXTW, 3 LSL, 6 SXTW, 7 SXTX.
    pub option: u8,
    /// Number of bits to shift it by.
    pub shift: u8,
}

impl Addressing {
    /// Stands for the program counter as a base.
    pub const PC: u8 = 32;

    /// A base and a constant.
    #[inline(always)]
    pub(super) fn at(base: u8, offset: i64) -> Self {
        Self { base, offset, increment: 0, index: 31, option: 3, shift: 0 }
    }
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
    #[inline]
    pub fn is_write(&self) -> bool {
        matches!(self.kind, Operation::Store | Operation::StoreExclusive)
    }

    /// The registers that are loaded or stored.
    pub fn registers(&self) -> &[u8] {
        self.registers.get(..1 + usize::from(self.is_pair)).unwrap_or(&self.registers)
    }

    /// Number of bytes of the whole access.
    #[inline]
    pub fn length(&self) -> usize {
        usize::from(self.bytes) << usize::from(self.is_pair)
    }

    /// The virtual address, from the values of registers (31 is the stack pointer for a base) and
    /// the instruction's address.
    #[inline(always)]
    pub fn address(
        &self,
        base_register: impl Fn(u8) -> u64,
        register: impl Fn(u8) -> u64,
        pc: u64,
    ) -> u64 {
        let Addressing { base, offset, index, option, shift, .. } = self.addressing;
        let base = if base == Addressing::PC { pc } else { base_register(base) };
        let address = base.wrapping_add_signed(offset);
        if index == 31 {
            return address;
        }
        let index = register(index);
        let index = match option {
            2 => u64::from(index as u32),
            6 => i64::from(index as i32) as u64,
            _ => index,
        };
        address.wrapping_add(index << shift)
    }
}
