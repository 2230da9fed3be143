//! The A64 instructions that order memory, or depend on order.
//!
//! Source: Arm ARM DDI 0487, C4.1 "A64 instruction set encoding" and C5.1 "The System instruction
//! class encoding space".

/// How far a barrier reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Domain {
    /// `NSH`: this CPU.
    Own,
    /// `ISH`: all CPUs.
    Inner,
    /// `OSH`: devices as well.
    Outer,
    /// `SY`: everything, also what has its caches off.
    System,
}

/// What a barrier waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accesses {
    /// Loads.
    Loads,
    /// Stores.
    Stores,
    /// Both, and maintenance.
    All,
}

/// The translations that a `TLBI` drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `IPAS2...`: stage 2 alone.
    SecondStage,
    /// `VMALLE1...` and the like: stage 1, and what combines it with stage 2.
    FirstStage,
    /// Both, of the VMID in use.
    BothStages,
    /// Both, of every VMID.
    AllGuests,
    /// EL2's own.
    Own,
}

/// What a load or store is beside that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Plain,
    /// It has acquire semantics.
    Acquire,
    /// It is one of an exclusive pair, or an atomic operation: it exchanges what was loaded before.
    Exclusive,
}

/// A cache operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// `DC CVAU`.
    CleanToUnification,
    /// `DC CIVAC` or `DC CVAC`.
    CleanToCoherency,
    /// `IC IALLU`: this CPU's.
    OwnInstructions,
    /// `IC IALLUIS` or `IC IVAU`: all CPUs'.
    Instructions,
}

/// A system register by its encoding: op0, op1, CRn, CRm and op2 in bits 15:0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(pub u16);

impl Register {
    /// By its encoding.
    #[must_use]
    pub const fn new(op0: u16, op1: u16, crn: u16, crm: u16, op2: u16) -> Self {
        Self(op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2)
    }
}

/// What matters of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// Nothing.
    Other,
    /// A load or store, or both.
    Memory(Access),
    /// `DSB` or `DMB`.
    Barrier {
        /// `DSB`.
        is_dsb: bool,
        /// How far.
        domain: Domain,
        /// Of what.
        accesses: Accesses,
    },
    /// `ISB`.
    Isb,
    /// `YIELD`.
    Yield,
    /// `TLBI`, of all CPUs or of this one.
    Tlbi {
        /// What it drops.
        scope: Scope,
        /// `...IS`.
        is_broadcast: bool,
    },
    /// `DC`, `IC`.
    Maintain(Cache),
    /// `AT`.
    Translate,
    /// `MSR`.
    Write(Register),
    /// `MRS`.
    Read(Register),
    /// `ERET`.
    Return,
    /// `SEV`.
    SendEvent,
    /// `WFE`.
    WaitForEvent,
    /// `SMC`.
    Call,
    /// Not an instruction: a translated block begins.
    Block {
        /// Instructions in it.
        length: u32,
    },
}

impl Instruction {
    /// Decodes an instruction's word.
    #[must_use]
    pub fn decode(word: u32) -> Self {
        if word == 0xd69f_03e0 {
            return Self::Return;
        }
        if word & 0xffe0_001f == 0xd400_0003 {
            return Self::Call;
        }
        if word & 0xffc0_0000 == 0xd500_0000 {
            return Self::system(word);
        }
        if word >> 25 & 0b0101 == 0b0100 {
            return Self::memory(word);
        }
        Self::Other
    }

    fn memory(word: u32) -> Self {
        // LDAR and LDAPR.
        if word & 0x3fff_fc00 == 0x08df_fc00 || word & 0x3fff_fc00 == 0x38bf_c000 {
            return Self::Memory(Access::Acquire);
        }
        // Exclusives, compare and swap, and atomics.
        let is_exclusive = word & 0x3f80_0000 == 0x0800_0000
            || word & 0x3fa0_7c00 == 0x08a0_7c00
            || word & 0x3b20_0c00 == 0x3820_0000;
        Self::Memory(if is_exclusive { Access::Exclusive } else { Access::Plain })
    }

    fn system(word: u32) -> Self {
        let field = |shift: u32, bits: u32| (word >> shift & ((1 << bits) - 1)) as u16;
        let (is_read, op0, op1) = (field(21, 1) != 0, field(19, 2), field(16, 3));
        let (crn, crm, op2) = (field(12, 4), field(8, 4), field(5, 3));
        match (op0, op1, crn) {
            (0, 3, 3) => Self::barrier(crm, op2),
            (0, 3, 2) if crm == 0 => match op2 {
                1 => Self::Yield,
                2 => Self::WaitForEvent,
                4 => Self::SendEvent,
                _ => Self::Other,
            },
            (1, _, 7) if !is_read => Self::maintenance(op1, crm, op2),
            (1, 0 | 4, 8) if !is_read => Self::tlbi(op1, crm, op2),
            (2 | 3, ..) if is_read => Self::Read(Register::new(op0, op1, crn, crm, op2)),
            (2 | 3, ..) => Self::Write(Register::new(op0, op1, crn, crm, op2)),
            _ => Self::Other,
        }
    }

    fn barrier(option: u16, op2: u16) -> Self {
        let domain = match option >> 2 {
            0 => Domain::Outer,
            1 => Domain::Own,
            2 => Domain::Inner,
            _ => Domain::System,
        };
        let accesses = match option & 3 {
            1 => Accesses::Loads,
            2 => Accesses::Stores,
            3 => Accesses::All,
            _ => return Self::Other,
        };
        match op2 {
            4 | 5 => Self::Barrier { is_dsb: op2 == 4, domain, accesses },
            6 => Self::Isb,
            _ => Self::Other,
        }
    }

    fn maintenance(op1: u16, crm: u16, op2: u16) -> Self {
        match (op1, crm, op2) {
            (0, 5, 0) => Self::Maintain(Cache::OwnInstructions),
            (0, 1, 0) | (3, 5, 1) => Self::Maintain(Cache::Instructions),
            (3, 11, 1) => Self::Maintain(Cache::CleanToUnification),
            (3, 10 | 14, 1) => Self::Maintain(Cache::CleanToCoherency),
            (0 | 4, 8 | 9, _) => Self::Translate,
            _ => Self::Other,
        }
    }

    fn tlbi(op1: u16, crm: u16, op2: u16) -> Self {
        let is_broadcast = matches!(crm, 0..=3);
        let scope = match (op1, crm, op2) {
            (0, ..) => Scope::FirstStage,
            (4, 0 | 4, _) => Scope::SecondStage,
            (4, _, 4) => Scope::AllGuests,
            (4, _, 6) => Scope::BothStages,
            _ => Scope::Own,
        };
        Self::Tlbi { scope, is_broadcast }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn barriers_are_decoded() {
        let barrier = |is_dsb, domain, accesses| Instruction::Barrier { is_dsb, domain, accesses };
        for (word, expected) in [
            (0xd503_3f9f, barrier(true, Domain::System, Accesses::All)),
            (0xd503_3e9f, barrier(true, Domain::System, Accesses::Stores)),
            (0xd503_3a9f, barrier(true, Domain::Inner, Accesses::Stores)),
            (0xd503_3b9f, barrier(true, Domain::Inner, Accesses::All)),
            (0xd503_379f, barrier(true, Domain::Own, Accesses::All)),
            (0xd503_31bf, barrier(false, Domain::Outer, Accesses::Loads)),
            (0xd503_3fdf, Instruction::Isb),
            (0xd503_209f, Instruction::SendEvent),
            (0xd503_205f, Instruction::WaitForEvent),
            (0xd503_203f, Instruction::Yield),
            (0xd503_201f, Instruction::Other),
            (0xd69f_03e0, Instruction::Return),
            (0xd400_0003, Instruction::Call),
        ] {
            assert_eq!(Instruction::decode(word), expected, "{word:#x}");
        }
    }

    #[test]
    fn maintenance_and_registers_are_decoded() {
        let tlbi = |scope, is_broadcast| Instruction::Tlbi { scope, is_broadcast };
        for (word, expected) in [
            (0xd50c_8020, tlbi(Scope::SecondStage, true)),
            (0xd508_831f, tlbi(Scope::FirstStage, true)),
            (0xd50c_83df, tlbi(Scope::BothStages, true)),
            (0xd50c_87df, tlbi(Scope::BothStages, false)),
            (0xd50c_879f, tlbi(Scope::AllGuests, false)),
            (0xd50c_871f, tlbi(Scope::Own, false)),
            (0xd508_711f, Instruction::Maintain(Cache::Instructions)),
            (0xd508_751f, Instruction::Maintain(Cache::OwnInstructions)),
            (0xd50b_7b20, Instruction::Maintain(Cache::CleanToUnification)),
            (0xd50b_7e20, Instruction::Maintain(Cache::CleanToCoherency)),
            (0xd508_7800, Instruction::Translate),
            (0xd51c_2100, Instruction::Write(Register::new(3, 4, 2, 1, 0))),
            (0xd538_7400, Instruction::Read(Register::new(3, 0, 7, 4, 0))),
        ] {
            assert_eq!(Instruction::decode(word), expected, "{word:#x}");
        }
    }

    #[test]
    fn acquires_and_exclusives_are_told_from_plain_accesses() {
        for (word, kind) in [
            (0xf940_0020, Access::Plain),     // ldr x0, [x1]
            (0xc8df_fc20, Access::Acquire),   // ldar x0, [x1]
            (0xc89f_fc20, Access::Plain),     // stlr x0, [x1]
            (0xc85f_fc20, Access::Exclusive), // ldaxr x0, [x1]
            (0xc85f_7c20, Access::Exclusive), // ldxr x0, [x1]
            (0xc802_fc20, Access::Exclusive), // stlxr w2, x0, [x1]
            (0xc8e2_fc20, Access::Exclusive), // casal x2, x0, [x1]
            (0xa940_0420, Access::Plain),     // ldp x0, x1, [x1]
        ] {
            assert_eq!(Instruction::decode(word), Instruction::Memory(kind), "{word:#x}");
        }
    }
}
