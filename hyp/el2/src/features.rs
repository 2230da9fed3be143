//! Features of this CPU, from its ID registers. Source: Arm ARM DDI 0487, by register name.

use aarch64_cpu::registers::{
    ID_AA64DFR0_EL1, ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1, ID_AA64MMFR2_EL1, Readable,
};

use crate::registers::id_field;

/// Number of bits of guest-physical addresses: what the CPU supports, at most 40.
/// `ID_AA64MMFR0_EL1.PARange`.
pub fn ipa_bits() -> u32 {
    match ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::PARange) {
        0 => 32,
        1 => 36,
        _ => 40,
    }
}

/// `ID_AA64MMFR2_EL1.FWB`: stage 2 can force memory to Write-Back.
pub fn has_forced_write_back() -> bool {
    ID_AA64MMFR2_EL1.read(ID_AA64MMFR2_EL1::FWB) != 0
}

/// `ID_AA64MMFR1_EL1.PAN` is 2 or more: there are `AT` instructions that check `PSTATE.PAN`.
pub fn has_translation_with_pan() -> bool {
    ID_AA64MMFR1_EL1.read(ID_AA64MMFR1_EL1::PAN) >= 2
}

/// `ID_AA64DFR0_EL1.DoubleLock`: 0 where the OS double lock exists, 0xf where it does not.
pub fn has_double_lock() -> bool {
    id_field(ID_AA64DFR0_EL1.get(), 36) == 0
}

/// `ID_AA64MMFR1_EL1.VH`: the registers at EL2 can have the layout that Oche uses throughout.
pub fn has_host_extensions() -> bool {
    ID_AA64MMFR1_EL1.read(ID_AA64MMFR1_EL1::VH) != 0
}
