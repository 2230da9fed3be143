//! The screen of a boot that ends before the guest starts, for a user without a serial cable.

use std::ffi::OsString;

use anyhow::{Context, Result, bail};
use oche::progress::Step;
use oche_m1_sim::fdt_fault::FdtFault;
use oche_m1_sim::{Mac, screen};

use super::expect::{expect, expect_on_screen};
use crate::m1::bench::Bench;

/// FDTs that Oche refuses, and why. The framebuffer is found in what can be read of each.
const REFUSED: [(FdtFault, &str); 4] = [
    (FdtFault::NoMemory, "oche: fatal: the FDT names no memory"),
    (FdtFault::ManyBanks, "oche: fatal: the FDT names more memory ranges than Oche keeps"),
    (FdtFault::NoCpus, "oche: fatal: the FDT names no CPU"),
    (FdtFault::NoEnd, "oche: fatal: the FDT does not parse"),
];

/// An FDT that is refused: the reason is on the screen. Where no text can be drawn the screen
/// becomes white, and where the FDT names no framebuffer nothing is written.
pub(super) fn run(bench: &Bench, step: &Step) -> Result<()> {
    let boot = |fault: FdtFault| {
        bench.run(&format!("{fault:?}"), &Mac { fault: Some(fault), ..Mac::default() }, step)
    };
    for (fault, wanted) in REFUSED {
        let outcome = boot(fault)?;
        for wanted in [wanted, "oche: photograph this screen", "oche: hold the power button"] {
            let seen = expect(&outcome, wanted).and_then(|()| expect_on_screen(&outcome, wanted));
            seen.with_context(|| format!("{fault:?}"))?;
        }
    }
    for (fault, wanted, lit) in [
        (FdtFault::NoMemoryNoFormat, REFUSED[0].1, screen::ALL_PIXELS),
        (FdtFault::NoHeader, "oche: fatal: no FDT at ", 0),
    ] {
        let outcome = boot(fault)?;
        expect(&outcome, wanted)?;
        let found = screen::lit_pixels(&outcome.screen);
        if found != lit {
            bail!("{fault:?}: {found} pixels of the screen are lit, not {lit}");
        }
    }
    without_write_back(bench, step)
}

/// A CPU that reports Apple as its implementer and cannot force RAM to Write-Back: Oche does not
/// start, and the reason is on the screen.
fn without_write_back(bench: &Bench, step: &Step) -> Result<()> {
    let arguments = ["-cpu", "cortex-a76,midr=0x611f0221"].map(OsString::from).to_vec();
    let mac = Mac { arguments, ..Mac::default() };
    let name = "a CPU without forced Write-Back";
    let outcome = bench.run(name, &mac, step)?;
    let wanted = "oche: fatal: this CPU has no FEAT_S2FWB";
    expect(&outcome, wanted).and_then(|()| expect_on_screen(&outcome, wanted)).context(name)
}
