//! The system registers that a kernel may find changed: those that a hypervisor writes.

use core::arch::asm;

macro_rules! read {
    ($encoding:literal) => {{
        let value: u64;
        // SAFETY: the register exists, and reading it changes nothing.
        unsafe { asm!(concat!("mrs {}, ", $encoding), out(reg) value, options(nomem, nostack)) };
        value
    }};
}

macro_rules! registers {
    ($($name:literal, $encoding:literal, $exists:ident;)*) => {
        /// All of them: name, whether this CPU has it, and how it is read.
        const ALL: &[(&str, fn() -> bool, fn() -> u64)] =
            &[$(($name, $exists, || read!($encoding))),*];
    };
}

/// Calls `found` with name and value of each register that this CPU has.
pub(super) fn for_each(found: impl Fn(&str, u64)) {
    for (name, _, value) in ALL.iter().filter(|(_, exists, _)| exists()) {
        found(name, value());
    }
    if has_sve() {
        // It traps as CPTR_EL2, which has been read, was left.
        // SAFETY: SVE is not used here.
        unsafe { asm!("msr cptr_el2, {}", "isb", in(reg) 0x33_0000_u64, options(nostack)) };
        found("ZCR_EL2", read!("S3_4_C1_C2_0"));
    }
}

fn always() -> bool {
    true
}

/// The field of an ID register at `shift` is not 0.
fn has(register: u64, shift: u32) -> bool {
    register >> shift & 0xf != 0
}

fn has_fine_traps() -> bool {
    has(read!("id_aa64mmfr0_el1"), 56)
}

fn has_extended_configuration() -> bool {
    has(read!("id_aa64mmfr1_el1"), 40)
}

fn has_sve() -> bool {
    has(read!("id_aa64pfr0_el1"), 32)
}

// Source of the encodings: Arm ARM DDI 0487, "AArch64 System Register Encoding".
registers! {
    "HCR_EL2", "hcr_el2", always;
    "SCTLR_EL2", "sctlr_el2", always;
    "CPTR_EL2", "cptr_el2", always;
    "MAIR_EL2", "mair_el2", always;
    "TCR_EL2", "tcr_el2", always;
    "TTBR0_EL2", "ttbr0_el2", always;
    "VBAR_EL2", "vbar_el2", always;
    "TPIDR_EL2", "tpidr_el2", always;
    "SP_EL0", "sp_el0", always;
    "HSTR_EL2", "hstr_el2", always;
    "HACR_EL2", "hacr_el2", always;
    "MDCR_EL2", "mdcr_el2", always;
    "VTTBR_EL2", "vttbr_el2", always;
    "VTCR_EL2", "vtcr_el2", always;
    "VPIDR_EL2", "vpidr_el2", always;
    "VMPIDR_EL2", "vmpidr_el2", always;
    "CNTHCTL_EL2", "cnthctl_el2", always;
    "CNTVOFF_EL2", "cntvoff_el2", always;
    "CNTHP_CVAL_EL2", "cnthp_cval_el2", always;
    "CNTHP_CTL_EL2", "cnthp_ctl_el2", always;
    "CNTHV_CTL_EL2", "S3_4_C14_C3_1", always;
    "HFGRTR_EL2", "S3_4_C1_C1_4", has_fine_traps;
    "HFGWTR_EL2", "S3_4_C1_C1_5", has_fine_traps;
    "HFGITR_EL2", "S3_4_C1_C1_6", has_fine_traps;
    "HDFGRTR_EL2", "S3_4_C3_C1_4", has_fine_traps;
    "HDFGWTR_EL2", "S3_4_C3_C1_5", has_fine_traps;
    "HCRX_EL2", "S3_4_C1_C2_2", has_extended_configuration;
    "SCTLR_EL12", "S3_5_C1_C0_0", always;
    "CPACR_EL12", "S3_5_C1_C0_2", always;
    "TCR_EL12", "S3_5_C2_C0_2", always;
    "MAIR_EL12", "S3_5_C10_C2_0", always;
    "TTBR0_EL12", "S3_5_C2_C0_0", always;
    "VBAR_EL12", "S3_5_C12_C0_0", always;
    "SPSR_EL12", "S3_5_C4_C0_0", always;
    "ELR_EL12", "S3_5_C4_C0_1", always;
    "ESR_EL12", "S3_5_C5_C2_0", always;
    "FAR_EL12", "S3_5_C6_C0_0", always;
    "CNTKCTL_EL12", "S3_5_C14_C1_0", always;
    "CNTP_CVAL_EL02", "S3_5_C14_C2_2", always;
    "CNTP_CTL_EL02", "S3_5_C14_C2_1", always;
    "CNTV_CVAL_EL02", "S3_5_C14_C3_2", always;
    "CNTV_CTL_EL02", "S3_5_C14_C3_1", always;
    "MDSCR_EL1", "mdscr_el1", always;
}
