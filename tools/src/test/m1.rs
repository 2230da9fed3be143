//! The simulated M1: the image that a Mac would get, at several addresses, with one CPU and with eight.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::el2::{self, Toolchain};
use crate::m1::dart::Setting;
use crate::m1::{Board, Mac, Outcome, Parts, screen};
use crate::pack::{self, Guest};
use crate::progress::Step;
use crate::workspace;

/// How long one run may take: a few seconds with one CPU, some twenty with eight on two.
const LIMIT: Duration = Duration::from_secs(150);
/// Where the image is loaded: any multiple of 2 MiB will do.
const ADDRESSES: [u64; 3] = [0x8_0800_0000, 0x8_0a60_0000, 0x8_2de0_0000];

/// Runs all of it.
///
/// # Errors
///
/// The first run that went wrong, and how.
pub(super) fn run(toolchain: Toolchain, step: &Step) -> Result<String> {
    let bench = Bench::make(toolchain, step)?;
    for (load, cpus) in [(ADDRESSES[0], 1), (ADDRESSES[1], 8), (ADDRESSES[2], 1)] {
        // A CPU that waits for an event keeps one of QEMU's threads busy, and each letter stops them all.
        let quiet = ("oche.log".to_owned(), "warn".to_owned());
        let chosen = if cpus > 1 { vec![quiet] } else { Vec::new() };
        let mac = Mac { load, cpus, chosen, ..Mac::default() };
        bench.passes(&format!("{cpus} CPUs at {load:#x}"), &mac, step)?;
    }
    lost_cpu(&bench, step)?;
    hazards(&bench, step)?;
    Ok("every case ok".to_owned())
}

/// A CPU that never comes: the boot goes on, and the guest does not hear of it.
fn lost_cpu(bench: &Bench, step: &Step) -> Result<()> {
    let mac = Mac { cpus: 3, missing: 1 << 1, ..Mac::default() };
    let outcome = bench.passes("a CPU that never comes", &mac, step)?;
    for wanted in ["cpu 0x1 stays off", "guest: cpu 0x2 comes ok", "guest: 2 CPUs"] {
        expect(&outcome, wanted)?;
    }
    Ok(())
}

/// A DART that is off, one that translates for firmware, one that never ends a command: each is told of, and left alone
/// or given up, and the others go on.
fn hazards(bench: &Bench, step: &Step) -> Result<()> {
    let mut mac = Mac::default();
    mac.settings[4] = Setting::Live;
    let outcome = bench.passes("a DART that translates", &mac, step)?;
    expect(&outcome, "sio_dart 0x235004000 2=dma-controller@236004000: locked false live 0x1")?;
    mac.settings[4] = Setting::Off;
    let outcome = bench.passes("a DART that is off", &mac, step)?;
    expect(&outcome, "2=dma-controller@236004000: off")?;
    mac.settings[2] = Setting::Stuck;
    let outcome = bench.run("a DART that stays busy", &mac, step)?;
    for wanted in [
        "guest: linux: two DARTs, one table FAILED",
        "guest: u-boot: 16K, then linux: 4K ok",
        "guest: a locked DART is as it was ok",
    ] {
        expect(&outcome, wanted)?;
    }
    Ok(())
}

/// What every run needs.
struct Bench {
    image: Vec<u8>,
    parts: Parts,
    folder: PathBuf,
}

impl Bench {
    fn make(toolchain: Toolchain, step: &Step) -> Result<Self> {
        let oche = el2::build_package(toolchain, "oche-m1", &[], step)?;
        let guest = el2::build_package(toolchain, "oche-m1-guest", &[], step)?;
        let flat = guest.with_extension("img");
        workspace::write_whole(&flat, &pack::flatten(&fs::read(guest)?)?)?;
        let folder = workspace::target().join("test").join("m1");
        workspace::create_folder(&folder)?;
        Ok(Self {
            image: packed(&oche, &flat, &folder)?,
            parts: Parts::make(toolchain, &oche, step)?,
            folder,
        })
    }

    /// Runs the guest to its last line; every case must have passed.
    fn passes(&self, name: &str, mac: &Mac, step: &Step) -> Result<Outcome> {
        let outcome = self.run(name, mac, step)?;
        judge(&outcome).with_context(|| format!("simulated M1: {name} ({})", self.log(name).display()))?;
        Ok(outcome)
    }

    /// Runs the guest to its last line.
    fn run(&self, name: &str, mac: &Mac, step: &Step) -> Result<Outcome> {
        step.detail(name);
        let board = Board::start(&self.image, mac, &self.parts)?;
        let outcome = board.run(LIMIT, is_last).with_context(|| format!("simulated M1: {name}"))?;
        workspace::write_whole(&self.log(name), outcome.lines.join("\n").as_bytes())?;
        Ok(outcome)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{}.log", name.replace(' ', "-")))
    }
}

fn packed(oche: &Path, guest: &Path, folder: &Path) -> Result<Vec<u8>> {
    let path = folder.join("oche-m1.img");
    let options = vec![("oche.pool".to_owned(), "64M".to_owned())];
    pack::pack(oche, &Guest { kernel: guest.to_owned(), initrd: None, options }, &path)?;
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// The guest has said everything, or Oche has nothing more to say.
fn is_last(line: &str) -> bool {
    (line.starts_with("guest: ") && line.contains(" cases, "))
        || line.starts_with("oche: panic: stopped")
        || line.starts_with("oche: fatal:")
        || line.contains("itself FAILED")
}

fn judge(outcome: &Outcome) -> Result<()> {
    let bad = outcome
        .lines
        .iter()
        .find(|line| line.contains("FAILED") || line.contains("oche: panic") || line.contains("oche: fatal"));
    if let Some(line) = bad {
        bail!("{line}");
    }
    if !outcome.lines.iter().any(|line| is_last(line)) {
        let last = outcome.lines.last().map_or("nothing at all", String::as_str);
        bail!("time was up at PC {:#x}; the last line was: {last}", outcome.stands_at.unwrap_or(0));
    }
    if let Some(violation) = outcome.violations.first() {
        bail!("a DART would not have forgiven this: {violation}");
    }
    expect(outcome, "oche: Oche ")?;
    // The banner at least is on the screen as well: some twenty characters.
    if screen::lit_pixels(&outcome.screen) < 500 {
        bail!("nothing is on the screen");
    }
    Ok(())
}

fn expect(outcome: &Outcome, text: &str) -> Result<()> {
    if outcome.says(text) { Ok(()) } else { bail!("nobody said `{text}`") }
}
