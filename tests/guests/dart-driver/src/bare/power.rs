//! Power domains as Linux drives them, and what becomes of the DARTs in them.
//! Source: Linux `drivers/pmdomain/apple/pmgr-pwrstate.c`, `t8103-pmgr.dtsi`.

use super::Tally;
use super::dart::{Dart, fill, is_filled, page};
use super::drivers::{Check, IOVA, READ_WRITE, attach, check, set, tables};

const RESET: u32 = 1 << 31;
const AUTO_ENABLE: u32 = 1 << 28;
const DEV_DISABLE: u32 = 1 << 10;
/// The clock or the power was gated once; writing 1 clears them.
const FLAGS: u32 = 0b11 << 8;
pub(super) const ACTIVE: u32 = 0xf;
const CLOCK_GATED: u32 = 0x4;
const POWER_GATED: u32 = 0;
/// Looks at a domain that is on its way before it counts as lost.
const PATIENCE: u32 = 100_000;

/// The register of a power domain.
#[derive(Clone, Copy)]
pub(super) struct Domain(u64);

const APCIE_GP: Domain = Domain(0x2_3b70_03e8);
const ATC0_USB: Domain = Domain(0x2_3d28_0098);
pub(super) const SIO_CPU: Domain = Domain(0x2_3b70_01d0);
/// In the domain `apcie_gp`.
const PCIE_0: Dart = Dart { base: 0x6_8100_8000, number: 0 };

impl Domain {
    fn register(self) -> Dart {
        Dart { base: self.0, number: 0 }
    }

    fn get(self) -> u32 {
        self.register().read(0)
    }

    fn put(self, value: u32) {
        self.register().write(0, value);
    }

    /// As Linux asks for a state, and lets a domain that is on gate its clock by itself.
    pub(super) fn set(self, state: u32) -> Check {
        self.put(self.get() & !(AUTO_ENABLE | FLAGS | ACTIVE) | state);
        let is_reached = (0..PATIENCE).any(|_| self.get() >> 4 & 0xf == state);
        if state == ACTIVE {
            self.let_gate();
        }
        check(is_reached, "the power domain stays as it is")
    }

    fn let_gate(self) {
        self.put(self.get() & !FLAGS | AUTO_ENABLE);
    }

    /// As Linux resets what is in a domain.
    fn reset(self) {
        self.put(self.get() & !FLAGS | DEV_DISABLE);
        self.put(self.get() & !FLAGS | RESET);
        self.put(self.get() & !(FLAGS | RESET));
        self.put(self.get() & !(FLAGS | DEV_DISABLE));
    }
}

/// As Linux finds the domains: each that is on may gate its clock by itself from now on. Here it
/// does, all the time.
pub(super) fn begin() {
    for domain in [APCIE_GP, ATC0_USB, SIO_CPU] {
        if domain.get() >> 4 & 0xf == ACTIVE {
            domain.let_gate();
        }
    }
}

pub(super) fn run(tally: &mut Tally) {
    tally.case(
        format_args!("power: what is unmapped while the clock is gated is gone"),
        gated(PCIE_0),
    );
    tally.case(format_args!("power: off and on while pages are mapped"), lost(PCIE_0));
    tally.case(format_args!("power: unmapped while the clock is held off"), held(PCIE_0));
    tally.case(format_args!("power: reset while pages are mapped"), reset(PCIE_0));
}

/// Source and target are mapped and have been used: the DART has cached both.
fn used(dart: Dart) -> Result<u64, &'static str> {
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
    check(is_filled(target, 0x41, 4096), "the bytes are others")?;
    fill(target, 0x42);
    Ok(leaves)
}

fn copies(dart: Dart) -> Check {
    check(dart.copy(1, IOVA, IOVA + 0x4000, 4096)?, "a mapped copy was refused")
}

/// Nothing may be copied, and nothing was.
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
    dart.write(0x40, dart.read(0x40));
    check(is_filled(page(38), 0x41, 4096), "the bytes are others after all of it")
}

/// The clock is gated whenever the domain is looked at, and the TLB keeps what it has.
fn gated(dart: Dart) -> Check {
    check(
        APCIE_GP.get() & 0x1000_00ff == AUTO_ENABLE | CLOCK_GATED << 4 | ACTIVE,
        "no gated clock",
    )?;
    let leaves = used(dart)?;
    unmap(dart, leaves)?;
    refuses(dart, "DMA after unmapping, through an entry that stayed cached")?;
    map(dart, leaves)
}

/// All is forgotten; devices reach nothing until the guest touches the DART, and then what is
/// mapped now.
fn lost(dart: Dart) -> Check {
    let leaves = used(dart)?;
    APCIE_GP.set(POWER_GATED)?;
    refuses(dart, "DMA without power")?;
    APCIE_GP.set(ACTIVE)?;
    refuses(dart, "DMA before the DART was programmed")?;
    check(dart.read(0x104) == 0x80, "the guest's own register is lost")?;
    copies(dart)?;
    fill(page(38), 0x42);
    // Unmapped without power.
    APCIE_GP.set(POWER_GATED)?;
    unmap(dart, leaves)?;
    APCIE_GP.set(ACTIVE)?;
    refuses(dart, "DMA before the DART was programmed, after unmapping")?;
    check(dart.read(0x104) == 0x80, "the guest's own register is lost")?;
    refuses(dart, "DMA after unmapping without power")?;
    map(dart, leaves)
}

/// The DART keeps what it has cached and cannot be flushed.
fn held(dart: Dart) -> Check {
    let leaves = used(dart)?;
    APCIE_GP.set(CLOCK_GATED)?;
    unmap(dart, leaves)?;
    APCIE_GP.set(ACTIVE)?;
    check(dart.read(0x104) == 0x80, "the guest's own register is lost")?;
    refuses(dart, "DMA after unmapping without a clock")?;
    // The stream was cut off, since nothing was known of it: it begins again.
    dart.reset()?;
    attach(dart, 1, page(0));
    map(dart, leaves)
}

/// As [`lost`], by a reset.
fn reset(dart: Dart) -> Check {
    let leaves = used(dart)?;
    APCIE_GP.reset();
    refuses(dart, "DMA after a reset")?;
    check(dart.read(0x104) == 0x80, "the guest's own register is lost")?;
    copies(dart)?;
    fill(page(38), 0x42);
    unmap(dart, leaves)?;
    refuses(dart, "DMA after unmapping")?;
    map(dart, leaves)
}
