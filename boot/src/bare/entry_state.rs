//! The system registers as firmware left them, so that they can be put back
//! ([`handover`](super::handover)).
//!
//! The entry assembly stores those that it changes itself in [`FIRST`]; [`save`] reads the others
//! before anything else of Oche's runs, and [`save_apple`] Apple's own before they are written. The
//! lists have every register that `oche_el2::cpu_setup`, the routes of FIQs and the self-test
//! write. They leave out the registers of a GIC and `SMCR_EL2`, since no M1 has them, and error
//! records, whose bits are cleared by being read back.

use core::cell::UnsafeCell;
use core::mem::offset_of;

use aarch64_cpu::registers::{ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1, ID_AA64PFR0_EL1, Readable};
use oche_el2::apple::is_apple;
use oche_el2::registers::id_field;

/// The registers that the entry assembly changes before Rust runs, and the two that Rust's run time
/// uses. The assembly uses the offsets.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct FirstRegisters {
    pub(super) hcr: u64,
    pub(super) sctlr: u64,
    pub(super) cptr: u64,
    /// `DAIF`, and `SPSel` in bit 0.
    pub(super) masks: u64,
    pub(super) mair: u64,
    pub(super) tcr: u64,
    pub(super) ttbr: u64,
    pub(super) stack: u64,
    pub(super) vectors: u64,
    pub(super) thread: u64,
}

const _: () = assert!(offset_of!(FirstRegisters, masks) == 24);
const _: () = assert!(offset_of!(FirstRegisters, mair) == 32);
const _: () = assert!(offset_of!(FirstRegisters, ttbr) == 48);
const _: () = assert!(offset_of!(FirstRegisters, stack) == 56);
const _: () = assert!(offset_of!(FirstRegisters, vectors) == 64);
const _: () = assert!(size_of::<FirstRegisters>() == 80);

/// What was saved.
#[repr(C)]
pub(super) struct Saved<T>(UnsafeCell<T>);

// SAFETY: written by the boot CPU before any other CPU of Oche's runs, and not after that.
unsafe impl<T> Sync for Saved<T> {}

/// Written by the entry assembly, with the MMU off.
pub(super) static FIRST: Saved<FirstRegisters> = Saved(UnsafeCell::new(FirstRegisters {
    hcr: 0,
    sctlr: 0,
    cptr: 0,
    masks: 0,
    mair: 0,
    tcr: 0,
    ttbr: 0,
    stack: 0,
    vectors: 0,
    thread: 0,
}));
static OTHERS: Saved<[u64; others::COUNT]> = Saved(UnsafeCell::new([0; others::COUNT]));
static APPLE: Saved<Option<[u64; apple::COUNT]>> = Saved(UnsafeCell::new(None));

/// The registers that the entry assembly has saved.
pub(super) fn first() -> FirstRegisters {
    // SAFETY: it is written once, before this runs.
    unsafe { FIRST.0.get().read_volatile() }
}

/// Saves the registers of the architecture. Call it once, before any of them is written.
pub(super) fn save() {
    let values = others::read_all();
    // SAFETY: the boot CPU, alone, once.
    unsafe { OTHERS.0.get().write_volatile(values) };
}

/// Saves Apple's own registers, on Apple's CPUs. Call it once, before any of them is written.
pub(super) fn save_apple() {
    if !is_apple() {
        return;
    }
    let values = apple::read_all();
    // SAFETY: the boot CPU, alone, once.
    unsafe { APPLE.0.get().write_volatile(Some(values)) };
}

/// Puts all of them back. None controls how EL2 itself runs.
pub(super) fn restore() {
    // SAFETY: `save` has written it, on this CPU.
    others::write_all(&unsafe { OTHERS.0.get().read_volatile() });
    // SAFETY: `save_apple` writes it, on this CPU.
    if let Some(values) = unsafe { APPLE.0.get().read_volatile() } {
        apple::write_all(&values);
    }
}

/// Registers that exist on every CPU with VHE.
fn always() -> bool {
    true
}

/// FEAT_FGT: `ID_AA64MMFR0_EL1.FGT`.
fn has_fine_traps() -> bool {
    id_field(ID_AA64MMFR0_EL1.get(), 56) != 0
}

/// FEAT_FGT and FEAT_AMUv1.
fn has_activity_traps() -> bool {
    has_fine_traps() && id_field(ID_AA64PFR0_EL1.get(), 44) != 0
}

/// FEAT_HCX: `ID_AA64MMFR1_EL1.HCX`.
fn has_extended_configuration() -> bool {
    id_field(ID_AA64MMFR1_EL1.get(), 40) != 0
}

/// `ID_AA64PFR0_EL1.SVE`.
fn has_sve() -> bool {
    id_field(ID_AA64PFR0_EL1.get(), 32) != 0
}

macro_rules! saved_registers {
    ($list:ident: $($name:literal, $encoding:literal, $exists:ident;)*) => { mod $list {
        use super::*;

        pub(super) const COUNT: usize = [$($name),*].len();

        pub(super) fn read_all() -> [u64; COUNT] {
            [$(if $exists() {
                let value: u64;
                // SAFETY: the register exists, and reading it changes nothing.
                unsafe {
                    core::arch::asm!(
                        concat!("mrs {}, ", $encoding),
                        out(reg) value,
                        options(nostack, preserves_flags)
                    )
                };
                value
            } else {
                0
            }),*]
        }

        pub(super) fn write_all(values: &[u64; COUNT]) {
            let mut values = values.iter();
            $(if let Some(value) = values.next() && $exists() {
                // SAFETY: the register exists, and gets the value that it had.
                unsafe {
                    core::arch::asm!(
                        concat!("msr ", $encoding, ", {}"),
                        in(reg) *value,
                        options(nostack, preserves_flags)
                    )
                };
            })*
        }
    }};
}

// Encodings as in `oche_el2::registers`. A timer's compare value comes before its control.
saved_registers! {
    others:
    "HSTR_EL2", "S3_4_C1_C1_3", always;
    "HACR_EL2", "S3_4_C1_C1_7", always;
    "MDCR_EL2", "S3_4_C1_C1_1", always;
    "VTTBR_EL2", "S3_4_C2_C1_0", always;
    "VTCR_EL2", "S3_4_C2_C1_2", always;
    "VPIDR_EL2", "S3_4_C0_C0_0", always;
    "VMPIDR_EL2", "S3_4_C0_C0_5", always;
    "CNTHCTL_EL2", "S3_4_C14_C1_0", always;
    "CNTVOFF_EL2", "S3_4_C14_C0_3", always;
    "CNTHP_CVAL_EL2", "S3_4_C14_C2_2", always;
    "CNTHP_CTL_EL2", "S3_4_C14_C2_1", always;
    "CNTHV_CTL_EL2", "S3_4_C14_C3_1", always;
    "HFGRTR_EL2", "S3_4_C1_C1_4", has_fine_traps;
    "HFGWTR_EL2", "S3_4_C1_C1_5", has_fine_traps;
    "HFGITR_EL2", "S3_4_C1_C1_6", has_fine_traps;
    "HDFGRTR_EL2", "S3_4_C3_C1_4", has_fine_traps;
    "HDFGWTR_EL2", "S3_4_C3_C1_5", has_fine_traps;
    "HAFGRTR_EL2", "S3_4_C3_C1_6", has_activity_traps;
    "HCRX_EL2", "S3_4_C1_C2_2", has_extended_configuration;
    "ZCR_EL2", "S3_4_C1_C2_0", has_sve;
    "SCTLR_EL12", "S3_5_C1_C0_0", always;
    "CPACR_EL12", "S3_5_C1_C0_2", always;
    "TCR_EL12", "S3_5_C2_C0_2", always;
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
    "MDSCR_EL1", "S2_0_C0_C2_2", always;
}

saved_registers! {
    apple:
    "VM_TMR_FIQ_ENA_EL2", "S3_5_C15_C1_3", always;
    "PMCR0_EL1", "S3_1_C15_C0_0", always;
    "UPMCR0_EL1", "S3_7_C15_C0_4", always;
}
