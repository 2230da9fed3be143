//! System registers that aarch64-cpu does not have: raw values, by encoding.
//!
//! All others are accessed through that crate. Three that it has stay here: it describes `CPTR_EL2`
//! and `CNTHCTL_EL2` in the layout of `HCR_EL2.E2H` = 0, and cannot write `ICC_CTLR_EL1`.
//!
//! # Order
//!
//! The compiler keeps accesses to system registers, barriers and other assembly in program order,
//! whichever form they have. Against loads and stores, MMIO included, it keeps those below in order
//! too, but not the crate's, which are `nomem`: it may move a load or a store across them. Where
//! such an order matters, a barrier without `nomem` ([`synchronize_context`], or a DSB) stands
//! between the register and the memory; the CPU needs one there as well. This holds for:
//!
//! - `VTTBR_EL2`: a DSB before it completes the stores to the tables, and an ISB follows before the
//!   memory of the tables that were left is used again (`stage2::maintenance`, `step::hw`).
//! - `PAR_EL1`: the ISB behind `AT` orders it (`translation`).
//! - `HCR_EL2`, `MDCR_EL2`, `MDSCR_EL1` and the fine traps control the guest alone; the exception
//!   return orders them, and an ISB where it looks at one of them earlier.
//! - `CNTPCT_EL0`: a fence or an ISB on both sides of what is measured; a timeout or a time stamp
//!   needs none.
//!
//! `ESR_EL2`, `FAR_EL2` and `HPFAR_EL2` are read before the first call that can cause an exception
//! at EL2. Identification registers are constant, and `TPIDR_EL2` is once it is set.
//!
//! Encodings are `S<op0>_<op1>_C<CRn>_C<CRm>_<op2>`. Source: Arm ARM DDI 0487, "AArch64 System
//! Register Encoding"; the `_EL12` and `_EL02` names are those of FEAT_VHE, which reach the guest's
//! registers while the plain EL1 names reach EL2's own.
#![expect(unsafe_code, reason = "system registers")]

macro_rules! system_registers {
    ($($(#[$doc:meta])* $name:ident = $encoding:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl $name {
            /// Reads the register.
            pub fn read(self) -> u64 {
                let value;
                // SAFETY: reading a system register that exists has no effect on memory. Callers
                // check ID registers before they name an optional one.
                unsafe {
                    core::arch::asm!(
                        concat!("mrs {}, ", $encoding),
                        out(reg) value,
                        options(nostack, preserves_flags)
                    )
                };
                value
            }

            /// Writes the register. It takes effect for the guest at the next exception return; the
            /// caller adds an ISB where EL2 itself depends on it.
            pub fn write(self, value: u64) {
                // SAFETY: the registers below control the guest or trap it; none of them changes
                // how EL2's own accesses are translated.
                unsafe {
                    core::arch::asm!(
                        concat!("msr ", $encoding, ", {}"),
                        in(reg) value,
                        options(nostack, preserves_flags)
                    )
                };
            }
        }
    )*};
}

system_registers! {
    /// `SCTLR_EL1` of the guest.
    SctlrEl12 = "S3_5_C1_C0_0";
    /// `CPACR_EL1` of the guest.
    CpacrEl12 = "S3_5_C1_C0_2";
    /// `TCR_EL1` of the guest.
    TcrEl12 = "S3_5_C2_C0_2";
    /// `SPSR_EL1` of the guest.
    SpsrEl12 = "S3_5_C4_C0_0";
    /// `ELR_EL1` of the guest.
    ElrEl12 = "S3_5_C4_C0_1";
    /// `ESR_EL1` of the guest.
    EsrEl12 = "S3_5_C5_C2_0";
    /// `FAR_EL1` of the guest.
    FarEl12 = "S3_5_C6_C0_0";
    /// `VBAR_EL1` of the guest.
    VbarEl12 = "S3_5_C12_C0_0";
    /// `CNTKCTL_EL1` of the guest.
    CntkctlEl12 = "S3_5_C14_C1_0";
    /// `CNTP_CTL_EL0` of the guest.
    CntpCtlEl02 = "S3_5_C14_C2_1";
    /// `CNTV_CTL_EL0` of the guest.
    CntvCtlEl02 = "S3_5_C14_C3_1";
    /// `OSLSR_EL1`, to be read only.
    OslsrEl1 = "S2_0_C1_C1_4";
    /// `OSDLR_EL1`; RAZ/WI without FEAT_DoubleLock.
    OsdlrEl1 = "S2_0_C1_C3_4";
    /// `PSTATE.PAN`, where FEAT_PAN is: bit 22.
    Pan = "S3_0_C4_C2_3";
    /// `PMCR_EL0`.
    PmcrEl0 = "S3_3_C9_C12_0";
    /// `CTR_EL0`.
    CtrEl0 = "S3_3_C0_C0_1";
    /// `ID_AA64SMFR0_EL1`.
    IdAa64Smfr0 = "S3_0_C0_C4_5";
    /// `ISR_EL1`, to be read only.
    IsrEl1 = "S3_0_C12_C1_0";
    /// Apple's `HID4_EL1`, of a P core. Source: m1n1 `src/cpu_regs.h`.
    Hid4El1 = "S3_0_C15_C4_0";
    /// Apple's `EHID4_EL1`, of an E core. Source: the same.
    Ehid4El1 = "S3_0_C15_C4_1";
    /// `VPIDR_EL2`.
    VpidrEl2 = "S3_4_C0_C0_0";
    /// `CPTR_EL2`, in the layout of `HCR_EL2.E2H` = 1.
    CptrEl2 = "S3_4_C1_C1_2";
    /// `HSTR_EL2`.
    HstrEl2 = "S3_4_C1_C1_3";
    /// `HACR_EL2`.
    HacrEl2 = "S3_4_C1_C1_7";
    /// `HCRX_EL2`.
    HcrxEl2 = "S3_4_C1_C2_2";
    /// `ZCR_EL2`.
    ZcrEl2 = "S3_4_C1_C2_0";
    /// `SMCR_EL2`.
    SmcrEl2 = "S3_4_C1_C2_6";
    /// `CNTHCTL_EL2`, in the layout of `HCR_EL2.E2H` = 1.
    CnthctlEl2 = "S3_4_C14_C1_0";
    /// `CNTHP_TVAL_EL2`.
    CnthpTvalEl2 = "S3_4_C14_C2_0";
    /// `CNTHV_CTL_EL2` (FEAT_VHE).
    CnthvCtlEl2 = "S3_4_C14_C3_1";
    /// `ICC_PMR_EL1`.
    IccPmrEl1 = "S3_0_C4_C6_0";
    /// `ICC_IAR0_EL1`.
    IccIar0El1 = "S3_0_C12_C8_0";
    /// `ICC_EOIR0_EL1`.
    IccEoir0El1 = "S3_0_C12_C8_1";
    /// `ICC_HPPIR0_EL1`.
    IccHppir0El1 = "S3_0_C12_C8_2";
    /// `ICC_BPR0_EL1`.
    IccBpr0El1 = "S3_0_C12_C8_3";
    /// `ICC_SGI1R_EL1`, to be written only.
    IccSgi1rEl1 = "S3_0_C12_C11_5";
    /// `ICC_ASGI1R_EL1`, to be written only.
    IccAsgi1rEl1 = "S3_0_C12_C11_6";
    /// `ICC_SGI0R_EL1`, to be written only.
    IccSgi0rEl1 = "S3_0_C12_C11_7";
    /// `ICC_CTLR_EL1`.
    IccCtlrEl1 = "S3_0_C12_C12_4";
    /// `ICC_IGRPEN0_EL1`.
    IccIgrpen0El1 = "S3_0_C12_C12_6";
    /// `VM_TMR_FIQ_ENA_EL2`, on Apple's CPUs only. Source: m1n1 `src/cpu_regs.h`.
    VmTimerFiqEnableEl2 = "S3_5_C15_C1_3";
    /// `CTRR_A_LWR_EL1`, on Apple's CPUs only. Source: m1n1 `proxyclient/m1n1/apple_regs.json`.
    CtrrALwrEl1 = "S3_4_C15_C2_3";
    /// `CTRR_A_UPR_EL1`, on Apple's CPUs only. Source: the same.
    CtrrAUprEl1 = "S3_4_C15_C2_4";
    /// `CTRR_CTL_EL1`, on Apple's CPUs only. Source: the same.
    CtrrCtlEl1 = "S3_4_C15_C2_5";
    /// `IPI_SR_EL1`, on Apple's CPUs only. Source: the same.
    IpiSrEl1 = "S3_5_C15_C1_1";
    /// `PMCR0_EL1`, on Apple's CPUs only. Source: the same.
    Pmcr0El1 = "S3_1_C15_C0_0";
    /// `UPMCR0_EL1`, on Apple's CPUs only. Source: the same.
    Upmcr0El1 = "S3_7_C15_C0_4";
    /// `UPMSR_EL1`, on Apple's CPUs only. Source: the same.
    UpmsrEl1 = "S3_7_C15_C6_4";
    /// `L2C_ERR_STS`, on Apple's CPUs only: what bus error there was; writing what was read clears
    /// it. Source: m1n1 `src/cpu_regs.h`, `src/exception.c`; XNU `osfmk/arm64/sleh.c`.
    L2cErrorStatus = "S3_3_C15_C8_0";
    /// `L2C_ERR_ADR`, on Apple's CPUs only: where. Source: the same.
    L2cErrorAddress = "S3_3_C15_C9_0";
    /// `L2C_ERR_INF`, on Apple's CPUs only. Source: the same.
    L2cErrorInformation = "S3_3_C15_C10_0";
    /// `AFSR1_EL2`.
    Afsr1El2 = "S3_4_C5_C1_1";
}

/// `HCR_EL2.FMO`: FIQs are taken to EL2, and virtual ones exist. Source: Arm ARM DDI 0487,
/// `HCR_EL2`.
pub const HCR_FMO: u64 = 1 << 3;
/// `HCR_EL2.VF`: a virtual FIQ is pending.
pub const HCR_VF: u64 = 1 << 6;

/// The four-bit field of an ID register at `shift`.
pub fn id_field(value: u64, shift: u32) -> u64 {
    value >> shift & 0xf
}

/// `ISB`: register writes before are seen by instructions after.
pub fn synchronize_context() {
    // SAFETY: a barrier changes nothing.
    unsafe { core::arch::asm!("isb", options(nostack, preserves_flags)) };
}
