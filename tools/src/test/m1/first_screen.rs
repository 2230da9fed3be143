//! What a person without a serial cable sees of a boot that ends before the guest starts.

use anyhow::{Context, Result};

use super::{expect, expect_on_screen};
use crate::m1::Mac;
use crate::m1::bench::Bench;
use crate::m1::tree::Fault;
use crate::progress::Step;

/// FDTs that Oche refuses, and why. The framebuffer is found in what can be read of each.
const REFUSED: [(Fault, &str); 3] = [
    (Fault::NoMemory, "oche: fatal: the FDT names no memory"),
    (Fault::ManyBanks, "oche: fatal: the FDT names more memory ranges than Oche keeps"),
    (Fault::NoCpus, "oche: fatal: the FDT names no CPU"),
];

/// An FDT that is refused: the reason is on the screen.
pub(super) fn run(bench: &Bench, step: &Step) -> Result<()> {
    let boot =
        |fault: Fault| bench.run(&format!("{fault:?}"), &Mac { fault: Some(fault), ..Mac::default() }, step);
    for (fault, wanted) in REFUSED {
        let outcome = boot(fault)?;
        let seen = expect(&outcome, wanted).and_then(|()| expect_on_screen(&outcome, wanted));
        seen.with_context(|| format!("{fault:?}"))?;
    }
    Ok(())
}
