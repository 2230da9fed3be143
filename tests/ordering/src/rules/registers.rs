//! System registers, and what must not come between a write of one and the next context
//! synchronisation.

use crate::decode::Register;

pub(super) const HCR_EL2: Register = Register::new(3, 4, 1, 1, 0);
pub(super) const SCTLR_EL2: Register = Register::new(3, 4, 1, 0, 0);
pub(super) const CPTR_EL2: Register = Register::new(3, 4, 1, 1, 2);
pub(super) const ZCR_EL2: Register = Register::new(3, 4, 1, 2, 0);
pub(super) const SMCR_EL2: Register = Register::new(3, 4, 1, 2, 6);
pub(super) const TTBR0_EL2: Register = Register::new(3, 4, 2, 0, 0);
pub(super) const TCR_EL2: Register = Register::new(3, 4, 2, 0, 2);
pub(super) const MAIR_EL2: Register = Register::new(3, 4, 10, 2, 0);
pub(super) const VBAR_EL2: Register = Register::new(3, 4, 12, 0, 0);
pub(super) const VTTBR_EL2: Register = Register::new(3, 4, 2, 1, 0);
pub(super) const VTCR_EL2: Register = Register::new(3, 4, 2, 1, 2);
pub(super) const ICC_SRE_EL2: Register = Register::new(3, 4, 12, 9, 5);
pub(super) const ICC_EOIR0_EL1: Register = Register::new(3, 0, 12, 8, 1);
pub(super) const ICC_IAR0_EL1: Register = Register::new(3, 0, 12, 8, 0);
pub(super) const ICC_HPPIR0_EL1: Register = Register::new(3, 0, 12, 8, 2);
pub(super) const ICC_PMR_EL1: Register = Register::new(3, 0, 4, 6, 0);
pub(super) const ICC_CTLR_EL1: Register = Register::new(3, 0, 12, 12, 4);
pub(super) const ICH_HCR_EL2: Register = Register::new(3, 4, 12, 11, 0);
pub(super) const CNTHP_CTL_EL2: Register = Register::new(3, 4, 14, 2, 1);
pub(super) const PAR_EL1: Register = Register::new(3, 0, 7, 4, 0);
pub(super) const MDSCR_EL1: Register = Register::new(2, 0, 0, 2, 2);

/// What depends on a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dependent {
    /// A load or a store by EL2.
    Access,
    /// `TLBI`.
    Tlbi,
    /// `AT`.
    Translate,
    /// A write or a read of this register.
    Register(Register),
    /// `ERET`.
    Return,
}

/// What must not come between a write of a register and the next context synchronisation.
pub(super) const DEPENDENTS: &[(Register, &[Dependent])] = &[
    // E2H and TGE choose the layout of the others.
    (
        HCR_EL2,
        &[
            Dependent::Tlbi,
            Dependent::Translate,
            Dependent::Register(SCTLR_EL2),
            Dependent::Register(TCR_EL2),
        ],
    ),
    (SCTLR_EL2, &[Dependent::Access, Dependent::Translate]),
    (CPTR_EL2, &[Dependent::Access, Dependent::Register(ZCR_EL2), Dependent::Register(SMCR_EL2)]),
    (MAIR_EL2, &[Dependent::Access, Dependent::Tlbi, Dependent::Register(SCTLR_EL2)]),
    (TCR_EL2, &[Dependent::Access, Dependent::Tlbi, Dependent::Register(SCTLR_EL2)]),
    (TTBR0_EL2, &[Dependent::Access, Dependent::Tlbi, Dependent::Register(SCTLR_EL2)]),
    (VBAR_EL2, &[Dependent::Access]),
    (VTCR_EL2, &[Dependent::Tlbi, Dependent::Translate]),
    (VTTBR_EL2, &[Dependent::Tlbi, Dependent::Translate]),
    (
        ICC_SRE_EL2,
        &[
            Dependent::Register(ICC_PMR_EL1),
            Dependent::Register(ICC_CTLR_EL1),
            Dependent::Register(ICH_HCR_EL2),
            Dependent::Register(ICC_HPPIR0_EL1),
        ],
    ),
    (ICC_EOIR0_EL1, &[Dependent::Register(ICC_IAR0_EL1), Dependent::Register(ICC_HPPIR0_EL1)]),
    // Whether ERET copies SPSR_EL2.SS into PSTATE is CONSTRAINED UNPREDICTABLE otherwise: D2.12
    // "Software Step exceptions", "Synchronization and the software step state machine".
    (MDSCR_EL1, &[Dependent::Return]),
    (CNTHP_CTL_EL2, &[Dependent::Register(ICC_IAR0_EL1), Dependent::Register(ICC_HPPIR0_EL1)]),
];
