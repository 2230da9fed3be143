//! The image of a boot file that `oche install` left, on the simulated M1.

use std::path::Path;

use anyhow::{Context, Result};
use oche::el2::Toolchain;
use oche::progress::Step;
use oche_m1_sim::{Mac, TypedText};
use oche_types::range::PhysRange;

use super::bench::Workbench;
use crate::m1::bench::{self, Bench};
use crate::test::m1::expect::expect;

/// The line with which U-Boot answers at its prompt.
const ANSWER: &str = "install: the prompt answers";

/// Boots `kernel`, which m1n1 takes from the boot file, to the prompt of U-Boot `version`.
///
/// # Errors
///
/// It does not get there.
pub(super) fn boots(
    toolchain: Toolchain,
    workbench: &Workbench,
    kernel: &Path,
    version: &str,
    step: &Step,
) -> Result<()> {
    step.detail("what was installed, on the simulated M1");
    let elf = workbench.elf.clone();
    let folder = &workbench.folder;
    let bench = Bench::of_image(toolchain, elf, kernel.to_owned(), folder, step)?;
    let typed = [("autoboot:  2 ", " ".to_owned()), ("=> ", format!("echo {ANSWER}\n"))];
    let typed = typed.map(|(behind, text)| TypedText { behind: behind.into(), text });
    let mut mac = Mac { typed: typed.into(), ..oche_m1_sim::linux::mac() };
    // U-Boot sets a GiB aside for a kernel.
    mac.memory.end += 2 << 30;
    mac.screen = PhysRange { start: mac.screen.start + (2 << 30), end: mac.screen.end + (2 << 30) };
    let outcome = bench.board(&mac)?.run(bench::LIMIT, |line| line == ANSWER)?;
    let name = "installed";
    bench.keep(name, &outcome)?;
    for wanted in ["oche: Oche", &format!("U-Boot {version} "), ANSWER] {
        expect(&outcome, wanted)
            .with_context(|| format!("the log: {}", bench.log(name).display()))?;
    }
    Ok(())
}
