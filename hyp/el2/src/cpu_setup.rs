//! The registers that prepare this CPU for the guest: what traps, what does not, and EL1's initial
//! state.
//!
//! In steady state only stage-2 faults and firmware calls trap. Every register is written whole.
//! All layouts are those of `HCR_EL2.E2H` = 1. Source throughout: Arm ARM DDI 0487, by register
//! name.
#![expect(unsafe_code, reason = "TLB maintenance")]

use aarch64_cpu::registers::{
    CNTHP_CTL_EL2, CNTVOFF_EL2, HAFGRTR_EL2, HCR_EL2, HDFGRTR_EL2, HDFGWTR_EL2, HFGITR_EL2,
    HFGRTR_EL2, HFGWTR_EL2, ID_AA64DFR0_EL1, ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1, ID_AA64PFR0_EL1,
    ID_AA64PFR1_EL1, MDCR_EL2, MDSCR_EL1, MIDR_EL1, MPIDR_EL1, Readable, VMPIDR_EL2, VTCR_EL2,
    VTTBR_EL2, Writeable,
};

use crate::failure::Failure;
use crate::firmware::fatal;
use crate::registers::*;
use crate::stage2::cacheability::Coherence;
use crate::words::simd;
use crate::{apple, features, fiq, guest};

/// PSTATE at the guest's first instruction: EL1h, D, A, I and F masked. Source: Linux
/// `Documentation/arm64/booting.rst`, PSCI `CPU_ON`.
pub const GUEST_PSTATE: u64 = 0x3c5;
/// `SCTLR_EL1` at the guest's first instruction: MMU and caches off; LSMAOE 29, nTLSMD 28, SPAN 23,
/// EIS 22, TSCXT 20 and EOS 11 set, as they are RES1 where the feature behind them is missing.
const GUEST_SCTLR: u64 = 1 << 29 | 1 << 28 | 1 << 23 | 1 << 22 | 1 << 20 | 1 << 11;

/// Checks that the entry code has set `HCR_EL2` on this CPU. E2H (34) must be set: it selects the
/// VHE layout of every register below, the only one that an M1 has. TGE (27), which m1n1 leaves
/// set, must be clear. Any other value is fatal. Notes whether EL2 may use vector registers, which
/// the entry code lets it access.
pub fn check_entry() {
    let value = HCR_EL2.get();
    if value >> 34 & 1 != 1 || value >> 27 & 1 != 0 {
        fatal(
            Failure::Configuration,
            format_args!("HCR_EL2 is {value:#x} after the entry: E2H must be set and TGE clear"),
        );
    }
    let (has_sve, has_sme) = has_longer_vectors();
    simd::permit(!has_sve && !has_sme);
}

/// Checks that on this CPU Oche's copies of pages are coherent with RAM that the guest maps
/// Non-cacheable. If nothing makes them so, Oche does not start.
pub fn check_coherence() -> Coherence {
    let coherence = Coherence::of(features::has_forced_write_back(), apple::is_apple());
    if coherence == Coherence::Nothing {
        fatal(
            Failure::NoForcedWriteBack,
            format_args!(
                "this CPU has no FEAT_S2FWB: bytes in Non-cacheable RAM of the guest would be lost"
            ),
        );
    }
    coherence
}

/// Configures this CPU for the guest. Runs on each CPU before it first enters the guest.
pub fn configure() {
    let _ = check_coherence();
    configure_floating_point();
    configure_traps();
    configure_fine_traps();
    configure_timers();
    configure_debug();
    fiq::hw::configure();
    // The guest reads the ID of the CPU that it runs on.
    VpidrEl2.write(MIDR_EL1.get());
    VMPIDR_EL2.set(MPIDR_EL1.get());
    configure_stage2();
    // TLBI depends on these registers.
    synchronize_context();
    // Firmware may have left entries of another VMID 0.
    // SAFETY: dropping TLB entries of EL1&0 only costs walks.
    unsafe { core::arch::asm!("tlbi alle1", "dsb nsh", options(nostack, preserves_flags)) };
}

fn configure_stage2() {
    let root = guest::root();
    let physical = ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::PARange).min(5);
    // HWU stays clear, so that hardware ignores bits 62:59 of entries; `stage2::entry` uses one of
    // them.
    VTCR_EL2.write(
        VTCR_EL2::RES1.val(1)
            + VTCR_EL2::PS.val(physical)
            + VTCR_EL2::TG0::Granule4KB
            + VTCR_EL2::SH0::Inner
            + VTCR_EL2::ORGN0::NormalWBRAWA
            + VTCR_EL2::IRGN0::NormalWBRAWA
            + VTCR_EL2::SL0::Granule4KBLevel1
            + VTCR_EL2::T0SZ.val(u64::from(64 - root.ipa_bits)),
    );
    // VMID 0, since there is one guest. CnP stays clear: sharing TLB entries between CPUs gains
    // nothing here.
    VTTBR_EL2.set(root.table);
}

fn configure_traps() {
    // SWIO: a guest's set/way invalidation cleans too, so it cannot lose Oche's data in the cache.
    // TSC: firmware calls trap to EL2. FMO: set only with `oche.fiq=virtual`. IMO, AMO, TGE, TIDCP,
    // TWI, TWE and all other traps stay clear.
    let mut value = HCR_EL2::VM::SET
        + HCR_EL2::SWIO::SET
        + HCR_EL2::TSC::EnableTrapEl1SmcToEl2
        + HCR_EL2::RW::EL1IsAarch64
        + HCR_EL2::E2H::EnableOsAtEl2
        + HCR_EL2::APK::SET
        + HCR_EL2::API::SET;
    if features::has_forced_write_back() {
        value += HCR_EL2::FWB::Enabled;
    }
    // Optional state that traps unless it is enabled: SCXTNUM (ID_AA64PFR0_EL1.CSV2 of 2, or
    // CSV2_frac) and MTE tags (ID_AA64PFR1_EL1.MTE of 2).
    let (pfr0, pfr1) = (ID_AA64PFR0_EL1.get(), ID_AA64PFR1_EL1.get());
    if id_field(pfr0, 56) >= 2 || id_field(pfr1, 32) >= 2 {
        value += HCR_EL2::EnSCXT::SET;
    }
    if id_field(pfr1, 8) >= 2 {
        value += HCR_EL2::ATA::SET;
    }
    if fiq::hw::is_virtual() {
        value += HCR_EL2::FMO::EnableVirtualFIQ;
    }
    HCR_EL2.write(value);
    // AArch32 system registers and implementation-defined controls: trap nothing. On the M1,
    // HACR_EL2 has trap bits for IPIs and the PMU that firmware may have set.
    HstrEl2.write(0);
    HacrEl2.write(0);
}

/// FEAT_FGT and FEAT_HCX have enable bits: if one is clear, something that exists without a
/// hypervisor traps or is UNDEFINED at EL1. All enable bits are set, and all trap bits are clear. A
/// bit of a missing feature is RES0 and ignored.
fn configure_fine_traps() {
    // ID_AA64MMFR0_EL1.FGT.
    if id_field(ID_AA64MMFR0_EL1.get(), 56) != 0 {
        // nACCDATA 50, nGCS 52:53, nSMPRI 54, nTPIDR2 55, nRCWMASK 56, nPIRE0 57, nPIR 58, nPOR
        // 59:60, nS2POR 61, nMAIR2 62, nAMAIR2 63.
        let negative = 0xfff4_0000_0000_0000;
        HFGRTR_EL2.set(negative);
        HFGWTR_EL2.set(negative);
        // nBRBINJ 55, nBRBIALL 56, nGCSPUSHM 57, nGCSSTR 58, nGCSEPP 59.
        HFGITR_EL2.set(0x0f80_0000_0000_0000);
        // nBRBIDR 59, nBRBCTL 60, nBRBDATA 61, nPMSNEVFR 62.
        HDFGRTR_EL2.set(0x7800_0000_0000_0000);
        // nBRBCTL 60, nBRBDATA 61, nPMSNEVFR 62.
        HDFGWTR_EL2.set(0x7000_0000_0000_0000);
        // ID_AA64PFR0_EL1.AMU.
        if ID_AA64PFR0_EL1.read(ID_AA64PFR0_EL1::AMU) != 0 {
            HAFGRTR_EL2.set(0);
        }
    }
    // ID_AA64MMFR1_EL1.HCX.
    if id_field(ID_AA64MMFR1_EL1.get(), 40) != 0 {
        // EnAS0 0, EnALS 1, EnASR 2, MSCEn 11, TCR2En 14, SCTLR2En 15, D128En 17, EnSNERR 18,
        // EnSDERR 20, GCSEn 22, EnFPM 23.
        HcrxEl2.write(
            0b111 | 1 << 11 | 1 << 14 | 1 << 15 | 1 << 17 | 1 << 18 | 1 << 20 | 1 << 22 | 1 << 23,
        );
    }
}

/// Whether this CPU has SVE, and SME: `ID_AA64PFR0_EL1.SVE`, `ID_AA64PFR1_EL1.SME`.
fn has_longer_vectors() -> (bool, bool) {
    let (pfr0, pfr1) = (ID_AA64PFR0_EL1.get(), ID_AA64PFR1_EL1.get());
    (id_field(pfr0, 32) != 0, id_field(pfr1, 24) != 0)
}

fn configure_floating_point() {
    let (has_sve, has_sme) = has_longer_vectors();
    // FPEN 21:20, ZEN 17:16, SMEN 25:24: 0b11 traps nothing. TTA, TAM, TCPAC stay clear.
    CptrEl2.write(3 << 20 | if has_sve { 3 << 16 } else { 0 } | if has_sme { 3 << 24 } else { 0 });
    // ZCR_EL2 and SMCR_EL2 are accessible only after CPTR_EL2 allows it.
    synchronize_context();
    if has_sve {
        // LEN: the longest vectors that the CPU has.
        ZcrEl2.write(0xf);
    }
    if has_sme {
        let smfr0 = IdAa64Smfr0.read();
        // FA64 (bit 31) where ID_AA64SMFR0_EL1.FA64, EZT0 (bit 30) where SMEver is 1 or more.
        let fa64 = (smfr0 >> 63 & 1) << 31;
        let ezt0 = u64::from(id_field(smfr0, 56) != 0) << 30;
        SmcrEl2.write(0xf | fa64 | ezt0);
    }
}

fn configure_timers() {
    // E2H layout: EL1PCTEN (10) and EL1PTEN (11) let EL1 and EL0 access the physical counter and
    // timer.
    CnthctlEl2.write(1 << 10 | 1 << 11);
    CNTVOFF_EL2.set(0);
    // EL2's own timers are off, and so are the guest's until it turns them on.
    CNTHP_CTL_EL2.set(0);
    CnthvCtlEl2.write(0);
}

fn configure_debug() {
    let dfr0 = ID_AA64DFR0_EL1.extract();
    let mut value = MDCR_EL2::HPMN::CLEAR;
    // ID_AA64DFR0_EL1.PMUVer; 0xf is an implementation-defined PMU, without PMCR_EL0 (the M1's).
    if !matches!(dfr0.read(ID_AA64DFR0_EL1::PMUVer), 0 | 0xf) {
        // HPMN (4:0) = all counters (PMCR_EL0.N, 15:11) are EL1's.
        value += MDCR_EL2::HPMN.val(PmcrEl0.read() >> 11 & 0x1f);
    }
    // PMSVer: E2PB (13:12) = 0b11, the profiling buffer is EL1's. TraceBuffer: E2TB (25:24)
    // likewise.
    if dfr0.read(ID_AA64DFR0_EL1::PMSVer) != 0 {
        value += MDCR_EL2::E2PB::OwnedByEL1;
    }
    if dfr0.read(ID_AA64DFR0_EL1::TraceBuffer) != 0 {
        value += MDCR_EL2::E2TB::EL1OwnerNotTrapped;
    }
    MDCR_EL2.write(value);
}

/// Sets EL1's registers to the state that a kernel expects at its entry.
pub fn reset_guest() {
    SctlrEl12.write(GUEST_SCTLR);
    CpacrEl12.write(0);
    TcrEl12.write(0);
    VbarEl12.write(0);
    CntkctlEl12.write(0);
    CntpCtlEl02.write(0);
    CntvCtlEl02.write(0);
    MDSCR_EL1.set(0);
    // Software step must be off before the exception return reads it.
    synchronize_context();
}
