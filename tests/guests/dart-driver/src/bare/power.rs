//! Power domains as Linux drives them, and the DARTs in them.
//! Source: Linux `drivers/pmdomain/apple/pmgr-pwrstate.c`, `t8103-pmgr.dtsi`.

use oche_guest_common::mmio::RegisterBlock;
use oche_guest_common::{CaseReport, Check, check};

use super::arena::{fill, is_filled, page};
use super::board::{PCIE_0, POWER_APCIE_GP, POWER_ATC0_USB, POWER_SIO_CPU};
use super::dart::{Dart, TRANSLATE, tcr};
use super::tables::{IOVA, READ_WRITE, attach, set, tables};

const RESET: u32 = 1 << 31;
const AUTO_ENABLE: u32 = 1 << 28;
const DEV_DISABLE: u32 = 1 << 10;
/// The clock or the power was gated since; writing 1 clears them.
const FLAGS: u32 = 0b11 << 8;
pub(super) const ACTIVE: u32 = 0xf;
const CLOCK_GATED: u32 = 0x4;
const POWER_GATED: u32 = 0;
/// Polls before a domain that changes its state counts as stuck.
const MAX_POLLS: u32 = 100_000;

/// A power domain, by its register.
#[derive(Clone, Copy)]
pub(super) struct PowerDomain(RegisterBlock);

/// The domain of [`PCIE_0`].
const APCIE_GP: PowerDomain = PowerDomain(POWER_APCIE_GP);
const ATC0_USB: PowerDomain = PowerDomain(POWER_ATC0_USB);
pub(super) const SIO_CPU: PowerDomain = PowerDomain(POWER_SIO_CPU);

impl PowerDomain {
    fn get(self) -> u32 {
        self.0.read(0)
    }

    fn put(self, value: u32) {
        self.0.write(0, value);
    }

    /// As Linux sets a state, and then lets an active domain gate its clock automatically.
    pub(super) fn set(self, state: u32) -> Check {
        self.put(self.get() & !(AUTO_ENABLE | FLAGS | ACTIVE) | state);
        let is_reached = (0..MAX_POLLS).any(|_| self.get() >> 4 & 0xf == state);
        if state == ACTIVE {
            self.enable_auto_gating();
        }
        check(is_reached, "the power domain does not change its state")
    }

    fn enable_auto_gating(self) {
        self.put(self.get() & !FLAGS | AUTO_ENABLE);
    }

    /// As Linux resets the devices of a domain.
    fn reset(self) {
        self.put(self.get() & !FLAGS | DEV_DISABLE);
        self.put(self.get() & !FLAGS | RESET);
        self.put(self.get() & !(FLAGS | RESET));
        self.put(self.get() & !(FLAGS | DEV_DISABLE));
    }
}

/// As Linux at its start: each active domain may gate its clock automatically from now on. This
/// board always does.
pub(super) fn begin() {
    for domain in [APCIE_GP, ATC0_USB, SIO_CPU] {
        if domain.get() >> 4 & 0xf == ACTIVE {
            domain.enable_auto_gating();
        }
    }
}

pub(super) fn run(report: &mut CaseReport) {
    report.case(format_args!("power: unmapped while the clock is gated"), gated(PCIE_0));
    report.case(format_args!("power: off and on while pages are mapped"), lost(PCIE_0));
    report.case(format_args!("power: unmapped while the clock is forced off"), held(PCIE_0));
    report.case(format_args!("power: reset while pages are mapped"), reset(PCIE_0));
}

/// Maps source and target and copies, so that the DART caches both entries.
fn map_and_copy(dart: Dart) -> Result<u64, &'static str> {
    let (root, leaves) = tables(0);
    dart.reset()?;
    let [source, target] = [33, 38].map(page);
    fill(source, 0x41);
    fill(target, 0x42);
    set(leaves, IOVA, source | READ_WRITE);
    set(leaves, IOVA + 0x4000, target | READ_WRITE);
    attach(dart, 1, root);
    dart.flush(2)?;
    copies(dart)?;
    check(is_filled(target, 0x41, 4096), "other bytes were copied")?;
    fill(target, 0x42);
    Ok(leaves)
}

fn copies(dart: Dart) -> Check {
    check(dart.copy(1, IOVA, IOVA + 0x4000, 4096)?, "a mapped copy was refused")
}

/// A copy must be refused and must not write.
fn refuses(dart: Dart, reason: &'static str) -> Check {
    check(!dart.copy(1, IOVA, IOVA + 0x4000, 4096)?, reason)?;
    check(is_filled(page(33), 0x41, 4096) && is_filled(page(38), 0x42, 4096), "memory was written")
}

fn unmap(dart: Dart, leaves: u64) -> Check {
    set(leaves, IOVA, 0);
    set(leaves, IOVA + 0x4000, 0);
    dart.flush(2)
}

fn map(dart: Dart, leaves: u64) -> Check {
    set(leaves, IOVA, page(33) | READ_WRITE);
    set(leaves, IOVA + 0x4000, page(38) | READ_WRITE);
    dart.flush(2)?;
    copies(dart)?;
    dart.clear_error();
    check(is_filled(page(38), 0x41, 4096), "other bytes were copied at the end")
}

/// The clock is gated automatically, and the TLB keeps its entries meanwhile.
fn gated(dart: Dart) -> Check {
    check(
        APCIE_GP.get() & 0x1000_00ff == AUTO_ENABLE | CLOCK_GATED << 4 | ACTIVE,
        "no gated clock",
    )?;
    let leaves = map_and_copy(dart)?;
    unmap(dart, leaves)?;
    refuses(dart, "DMA after unmapping, through an entry that stayed cached")?;
    map(dart, leaves)
}

/// The DART loses its state. Devices access nothing until the guest accesses the DART, and then
/// what is mapped at that moment.
fn lost(dart: Dart) -> Check {
    let leaves = map_and_copy(dart)?;
    APCIE_GP.set(POWER_GATED)?;
    refuses(dart, "DMA without power")?;
    APCIE_GP.set(ACTIVE)?;
    refuses(dart, "DMA before the DART was programmed")?;
    check(dart.read(tcr(1)) == TRANSLATE, "the guest's own register is lost")?;
    copies(dart)?;
    fill(page(38), 0x42);
    // A page is unmapped while the DART has no power.
    APCIE_GP.set(POWER_GATED)?;
    unmap(dart, leaves)?;
    APCIE_GP.set(ACTIVE)?;
    refuses(dart, "DMA before the DART was programmed, after unmapping")?;
    check(dart.read(tcr(1)) == TRANSLATE, "the guest's own register is lost")?;
    refuses(dart, "DMA after unmapping without power")?;
    map(dart, leaves)
}

/// The DART keeps its TLB entries and cannot be flushed.
fn held(dart: Dart) -> Check {
    let leaves = map_and_copy(dart)?;
    APCIE_GP.set(CLOCK_GATED)?;
    unmap(dart, leaves)?;
    APCIE_GP.set(ACTIVE)?;
    check(dart.read(tcr(1)) == TRANSLATE, "the guest's own register is lost")?;
    refuses(dart, "DMA after unmapping without a clock")?;
    // Oche has blocked the stream, since it could not flush it: attach it again.
    dart.reset()?;
    attach(dart, 1, page(0));
    map(dart, leaves)
}

/// As [`lost`], by a reset.
fn reset(dart: Dart) -> Check {
    let leaves = map_and_copy(dart)?;
    APCIE_GP.reset();
    refuses(dart, "DMA after a reset")?;
    check(dart.read(tcr(1)) == TRANSLATE, "the guest's own register is lost")?;
    copies(dart)?;
    fill(page(38), 0x42);
    unmap(dart, leaves)?;
    refuses(dart, "DMA after unmapping")?;
    map(dart, leaves)
}
