//! Injecting an exception into EL1: the registers to set, and their values.
//!
//! An access to an address without a device causes an external abort. Source: Arm ARM DDI 0487,
//! exception entry pseudocode `AArch64.TakeException`, and `SPSR_EL1`, `SCTLR_EL1`, `ESR_EL1`.

#[cfg(target_os = "none")]
pub(crate) mod hw;

/// The guest's state that determines how it takes an exception.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted {
    /// `SPSR_EL2`: PSTATE at the trap.
    pub pstate: u64,
    /// `ELR_EL2`: the instruction that trapped.
    pub pc: u64,
    /// `VBAR_EL12`.
    pub vector_base: u64,
    /// `SCTLR_EL12`.
    pub sctlr: u64,
    /// The optional PSTATE bits that this CPU has: FEAT_PAN, FEAT_SSBS, FEAT_MTE2.
    pub features: Features,
}

/// Optional PSTATE bits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    /// `ID_AA64MMFR1_EL1.PAN` is not 0.
    pub pan: bool,
    /// `ID_AA64PFR1_EL1.SSBS` is not 0.
    pub ssbs: bool,
    /// `ID_AA64PFR1_EL1.MTE` is 2 or more.
    pub mte: bool,
}

/// What to write so that the guest continues in its exception handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injection {
    /// `ESR_EL12`.
    pub esr: u64,
    /// `SPSR_EL12`: the guest's PSTATE at the trap.
    pub spsr: u64,
    /// The new `ELR_EL2`.
    pub pc: u64,
    /// The new `SPSR_EL2`.
    pub pstate: u64,
}

/// The exception that the guest takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A synchronous external abort on an instruction fetch.
    Fetch,
    /// A synchronous external abort on a load.
    Load,
    /// A synchronous external abort on a store.
    Store,
    /// A stage-1 fault on a store.
    StoreFault {
        /// The fault status: `DFSC`, equal to `PAR_EL1.FST`.
        status: u64,
    },
    /// An undefined instruction.
    Undefined,
}

const MODE_MASK: u64 = 0x1f;
const MODE_EL1H: u64 = 0x5;
const MODE_EL1T: u64 = 0x4;
const AARCH32: u64 = 1 << 4;
const DAIF: u64 = 0xf << 6;
const BTYPE: u64 = 3 << 10;
const SSBS: u64 = 1 << 12;
const ALLINT: u64 = 1 << 13;
const IL: u64 = 1 << 20;
const SS: u64 = 1 << 21;
const PAN: u64 = 1 << 22;
const UAO: u64 = 1 << 23;
const TCO: u64 = 1 << 25;
/// `SCTLR_EL1.SPAN`: when 0, an exception to EL1 sets PAN.
const SCTLR_SPAN: u64 = 1 << 23;
/// `SCTLR_EL1.DSSBS`: PSTATE.SSBS after an exception to EL1.
const SCTLR_DSSBS: u64 = 1 << 44;
/// Synchronous external abort, not on a table walk.
const EXTERNAL_ABORT: u64 = 0x10;
/// `WnR`.
const WRITE: u64 = 1 << 6;

/// The registers for an exception at `from` for `reason`.
pub fn exception(from: &Interrupted, reason: Reason) -> Injection {
    let from_aarch32 = from.pstate & AARCH32 != 0;
    let mode = from.pstate & MODE_MASK;
    let from_el1 = !from_aarch32 && (mode == MODE_EL1H || mode == MODE_EL1T);
    let offset = match (from_el1, from_aarch32) {
        (true, _) if mode == MODE_EL1T => 0x000,
        (true, _) => 0x200,
        (false, false) => 0x400,
        (false, true) => 0x600,
    };
    // EC 0x20/0x21: instruction abort from a lower / the same level; 0x24/0x25: data abort
    // likewise; 0x00: unknown reason. IL (bit 25) is 1 for all of them, whatever the length of the
    // instruction.
    let abort = |class: u64, iss: u64| (class + u64::from(from_el1)) << 26 | 1 << 25 | iss;
    let esr = match reason {
        Reason::Fetch => abort(0x20, EXTERNAL_ABORT),
        Reason::Load => abort(0x24, EXTERNAL_ABORT),
        Reason::Store => abort(0x24, EXTERNAL_ABORT | WRITE),
        Reason::StoreFault { status } => abort(0x24, WRITE | status & 0x3f),
        Reason::Undefined => 1 << 25,
    };
    Injection {
        esr,
        spsr: from.pstate,
        pc: from.vector_base.wrapping_add(offset),
        pstate: handler_pstate(from, from_aarch32),
    }
}

fn handler_pstate(from: &Interrupted, from_aarch32: bool) -> u64 {
    // Of an AArch32 PSTATE, only the flags are kept; T, IT, GE, Q and E are other bits in AArch64.
    // DIT, which moves from bit 21 to bit 24, only constrains timing, and the handler sets its own.
    let kept = if from_aarch32 { from.pstate & (0xf << 28 | PAN) } else { from.pstate };
    let cleared = MODE_MASK | BTYPE | SSBS | ALLINT | IL | SS | UAO | TCO;
    let mut pstate = kept & !cleared | DAIF | MODE_EL1H;
    if from.features.pan && from.sctlr & SCTLR_SPAN == 0 {
        pstate |= PAN;
    }
    if from.features.ssbs && from.sctlr & SCTLR_DSSBS != 0 {
        pstate |= SSBS;
    }
    if from.features.mte {
        pstate |= TCO;
    }
    pstate
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interrupted(pstate: u64) -> Interrupted {
        Interrupted {
            pstate,
            pc: 0x1000,
            vector_base: 0xffff_8000_0000_0800,
            sctlr: 0,
            features: Features::default(),
        }
    }

    #[test]
    fn a_kernel_store_goes_to_the_same_level_vector() {
        let injection = exception(&interrupted(0x6000_0005), Reason::Store);
        assert_eq!(injection.esr, 0x25 << 26 | 1 << 25 | 1 << 6 | 0x10);
        assert_eq!(injection.pc, 0xffff_8000_0000_0a00);
        assert_eq!(injection.spsr, 0x6000_0005);
        assert_eq!(injection.pstate, 0x6000_03c5);
    }

    #[test]
    fn a_user_load_comes_from_a_lower_level() {
        let injection = exception(&interrupted(0), Reason::Load);
        assert_eq!(injection.esr >> 26, 0x24);
        assert_eq!(injection.pc & 0xfff, 0xc00);
        let thumb = exception(&interrupted(0x30), Reason::Fetch);
        assert_eq!(thumb.esr >> 26, 0x20);
        assert_eq!(thumb.pc & 0xfff, 0xe00);
        assert_eq!(thumb.pstate, 0x3c5);
    }

    #[test]
    fn a_store_that_stage_1_refuses_is_reported_as_a_cpu_does() {
        // A permission fault of level 3.
        let reason = Reason::StoreFault { status: 0xf };
        assert_eq!(exception(&interrupted(0), reason).esr, 0x24 << 26 | 1 << 25 | 1 << 6 | 0xf);
        assert_eq!(exception(&interrupted(5), reason).esr, 0x25 << 26 | 1 << 25 | 1 << 6 | 0xf);
    }

    #[test]
    fn pan_ssbs_and_tco_follow_the_guests_choice() {
        let mut from = interrupted(0x5 | 3 << 10 | 1 << 12 | 1 << 21 | 1 << 23);
        from.features = Features { pan: true, ssbs: true, mte: true };
        assert_eq!(exception(&from, Reason::Load).pstate, 0x3c5 | PAN | TCO);
        from.sctlr = SCTLR_SPAN | SCTLR_DSSBS;
        assert_eq!(exception(&from, Reason::Load).pstate, 0x3c5 | SSBS | TCO);
    }
}
