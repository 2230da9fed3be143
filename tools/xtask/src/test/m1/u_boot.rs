//! Debian's U-Boot on the simulated board: from the packed image to its prompt.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use oche::el2::Toolchain;
use oche::pack::GuestFiles;
use oche::progress::Step;
use oche::workspace;
use oche_m1_sim::{BoardOutcome, Mac, TypedText, screen};
use oche_types::range::PhysRange;

use crate::m1::bench::Bench;
use crate::m1::u_boot;

/// How long a run may take: a quarter of a minute on two cores.
const LIMIT: Duration = Duration::from_secs(240);
/// U-Boot's prompt.
const PROMPT: &str = "=> ";
/// The line with which U-Boot answers the last command.
const LAST: &str = "guest: the prompt answers";

/// Pixels with a colour, at least: U-Boot's logo has 25 600, and Oche writes in white here.
const LEAST_COLOURED: usize = 10_000;

/// U-Boot, unmodified, with nothing behind it.
///
/// # Errors
///
/// The first thing that went wrong.
pub(in super::super) fn run(toolchain: Toolchain, step: &Step) -> Result<String> {
    let folder = workspace::target().join("test").join("m1-u-boot");
    let u_boot = u_boot::fetch(step)?;
    let options = vec![("oche.pool".to_owned(), "64M".to_owned())];
    let guest = GuestFiles { kernel: u_boot.binary, initrd: None, options };
    let bench = Bench::with_guest(toolchain, &[], &guest, &folder, step)?;
    step.detail(&format!("U-Boot {}", u_boot.version));
    let name = "u-boot";
    let outcome = bench.board(&mac())?.run(LIMIT, |line| line == LAST)?;
    bench.keep(name, &outcome)?;
    screen::write_png(&outcome.screen, &folder.join("screen.png"))?;
    judge(&outcome, &u_boot.version)
        .with_context(|| format!("the log: {}", bench.log(name).display()))?;
    Ok(format!("U-Boot {}, to its prompt", u_boot.version))
}

/// A Mac with memory for U-Boot, which sets a GiB of it aside for a kernel, and a person at its
/// serial port.
fn mac() -> Mac {
    let mut mac = Mac { cpus: 2, ..oche_m1_sim::linux::mac() };
    mac.memory.end += 2 << 30;
    // Without bytes between rows, as on a MacBook Air (AsahiLinux/m1n1#107): U-Boot does not read
    // `stride`.
    let start = mac.screen.start + (2 << 30);
    let bytes = u64::from(screen::WIDTH * screen::HEIGHT * 4);
    mac.screen = PhysRange { start, end: start + bytes };
    let typed = [("autoboot:  2 ", " "), (PROMPT, "echo guest: the prompt answers\n")];
    let typed = typed.map(|(behind, text)| TypedText { behind: behind.into(), text: text.into() });
    Mac { typed: typed.into(), ..mac }
}

fn judge(outcome: &BoardOutcome, version: &str) -> Result<()> {
    if let Some(violation) = outcome.violations.first() {
        bail!("an M1 would not have forgiven this: {violation}");
    }
    // Debian's revision is in U-Boot's own version.
    for wanted in ["oche: Oche ", &format!("U-Boot {version} "), "Model: Apple MacBook Air"] {
        if !outcome.has_line(wanted) {
            bail!("no line has `{wanted}`");
        }
    }
    // It writes on the screen, too.
    if screen::coloured_pixels(&outcome.screen) < LEAST_COLOURED {
        bail!("U-Boot has left nothing on the screen");
    }
    if !outcome.lines.iter().any(|line| line == LAST) {
        let last = outcome.lines.last().map_or("nothing at all", String::as_str);
        bail!("time was up at PC {:#x}; the last line was: {last}", outcome.stands_at.unwrap_or(0));
    }
    Ok(())
}
