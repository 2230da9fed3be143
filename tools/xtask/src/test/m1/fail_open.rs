//! Failures before the guest runs, with a packed U-Boot: it starts natively, and finds what m1n1
//! would have left it. The kernel of the tests that stands for U-Boot prints what it finds.

use anyhow::{Context, Result, bail};
use oche::el2::Toolchain;
use oche::pack::{self, GuestFiles};
use oche::progress::Step;
use oche::workspace;
use oche_boot::bring_up::{self, Mode};
use oche_m1_sim::fdt_fault::FdtFault;
use oche_m1_sim::{BoardOutcome, Mac, TypedText};
use oche_types::range::PhysRange;

use super::expect::{expect, expect_on_screen};
use crate::m1::bench::{self, Bench};
use crate::m1::u_boot;

/// The last line of the tests' kernel.
const END: &str = "native: end";

/// The line with which Debian's U-Boot answers at its prompt.
const PROMPT_ANSWERS: &str = "native: the prompt answers";

/// Failures that a Mac can have, in the order of bring-up: each is shown, then U-Boot starts.
pub(super) fn run(toolchain: Toolchain, step: &Step) -> Result<()> {
    let folder = workspace::target().join("test").join("m1-fail-open");
    let guest = bench::native_guest(toolchain, &[("oche.fail-open", "1")], step)?;
    let bench = Bench::with_guest(toolchain, &[], &guest, &folder, step)?;
    let mac = Mac { cpus: 2, ..Mac::default() };
    let chosen = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    let failures = [
        (
            "the FDT names no CPU",
            Mac { fault: Some(FdtFault::NoCpus), ..mac.clone() },
            "oche: fatal: the FDT names no CPU",
        ),
        (
            "a pool larger than memory",
            Mac { chosen: chosen("oche.pool", "100G"), ..mac.clone() },
            "oche: fatal: too little memory",
        ),
        (
            "a release address that cannot be stored to, with a self-test",
            Mac {
                wrong_release: Some(mac.load + 0x100),
                chosen: chosen("oche.selftest", "1"),
                ..mac.clone()
            },
            "EL2 cannot store to its release address",
        ),
    ];
    for (name, mac, reason) in failures {
        starts_natively(&bench, &guest, name, &mac, reason, step).context(name)?;
    }
    let off = Mac { chosen: chosen("oche.fail-open", "off"), ..mac.clone() };
    stays_stopped(&bench, &off, step)?;
    each_step(toolchain, &mac, step)?;
    debians_u_boot(toolchain, step)
}

/// Debian's U-Boot starts natively too, and comes to its prompt.
fn debians_u_boot(toolchain: Toolchain, step: &Step) -> Result<()> {
    let u_boot = u_boot::fetch(step)?;
    let name = "Debian's U-Boot";
    step.detail(name);
    let folder = workspace::target().join("test").join("m1-fail-open-u-boot");
    let options = vec![("oche.fail-open".to_owned(), "1".to_owned())];
    let guest = GuestFiles { kernel: u_boot.binary, initrd: None, options };
    let bench = Bench::with_guest(toolchain, &[], &guest, &folder, step)?;
    let chosen = vec![("oche.pool".to_owned(), "100G".to_owned())];
    let typed = [("autoboot:  2 ", " "), ("=> ", "echo native: the prompt answers\n")];
    let typed = typed.map(|(behind, text)| TypedText { behind: behind.into(), text: text.into() });
    let mut mac = Mac { chosen, typed: typed.into(), ..oche_m1_sim::linux::mac() };
    // U-Boot sets a GiB aside for a kernel.
    mac.memory.end += 2 << 30;
    mac.screen = PhysRange { start: mac.screen.start + (2 << 30), end: mac.screen.end + (2 << 30) };
    let outcome = bench.board(&mac)?.run(bench::LIMIT, |line| line == PROMPT_ANSWERS)?;
    bench.keep(name, &outcome)?;
    let version = format!("U-Boot {} ", u_boot.version);
    for wanted in ["oche: fatal: too little memory", &version, PROMPT_ANSWERS] {
        expect(&outcome, wanted)
            .with_context(|| format!("{name}: {}", bench.log(name).display()))?;
    }
    Ok(())
}

/// Every step of bring-up fails once, and the last one by a panic and by a data abort too. A step
/// that no code reaches would let the boot go on, and U-Boot would find itself at EL1.
fn each_step(toolchain: Toolchain, mac: &Mac, step: &Step) -> Result<()> {
    let folder = workspace::target().join("test").join("m1-fail-at-step");
    let guest = bench::native_guest(toolchain, &[("oche.fail-open", "0")], step)?;
    let mut bench = Bench::with_guest(toolchain, &["fail-on-request"], &guest, &folder, step)?;
    let elf = std::fs::read(&bench.oche).context("Oche's file")?;
    let word = pack::symbol(&elf, bring_up::REQUEST_SYMBOL).context("no word for the request")?;
    // Self-tests and the rest of bring-up alike.
    let chosen = vec![("oche.selftest".to_owned(), "1".to_owned())];
    let mac = Mac { chosen, ..mac.clone() };
    let native = found(&bench.native_board(&guest, &mac)?.run(bench::LIMIT, |line| line == END)?)?;
    let last = bring_up::Step::ALL.last().copied().context("there are steps")?;
    let fatal = bring_up::Step::ALL.iter().map(|at| (*at, Mode::Fatal));
    for (at, mode) in fatal.chain([(last, Mode::Panic), (last, Mode::Abort)]) {
        let request = bring_up::request(at, mode).to_le_bytes();
        let place = bench.image.get_mut(word as usize..word as usize + 4);
        place.context("the word is outside the image")?.copy_from_slice(&request);
        let name = format!("{at:?} by {mode:?}");
        step.detail(&name);
        let outcome = bench.board(&mac)?.run(bench::LIMIT, |line| line == END)?;
        bench.keep(&name, &outcome)?;
        let reason = match mode {
            Mode::Fatal => format!("oche: fatal: requested after {at:?} (B08)"),
            Mode::Panic => format!("oche: panic: cpu 0: requested after {at:?}"),
            Mode::Abort => "oche: panic: cpu 0: data abort (vector 0x200, P03)".to_owned(),
        };
        expect(&outcome, &reason).context(name.clone())?;
        compare(&native, &found(&outcome).context(name.clone())?).context(name)?;
    }
    Ok(())
}

/// Fails at the first line that differs.
fn compare(native: &[String], after_oche: &[String]) -> Result<()> {
    for (wanted, found) in native.iter().zip(after_oche) {
        if wanted != found {
            bail!("without Oche the kernel finds `{wanted}`, and after Oche `{found}`");
        }
    }
    Ok(())
}

/// Boots, and compares what the kernel finds with what it finds without Oche.
fn starts_natively(
    bench: &Bench,
    guest: &GuestFiles,
    name: &str,
    mac: &Mac,
    reason: &str,
    step: &Step,
) -> Result<()> {
    step.detail(name);
    let native = bench.native_board(guest, mac)?.run(bench::LIMIT, |line| line == END)?;
    bench.keep(&format!("{name}, without Oche"), &native)?;
    let wanted = found(&native).context("without Oche")?;
    let outcome = bench.board(mac)?.run(bench::LIMIT, |line| line == END)?;
    bench.keep(name, &outcome)?;
    for text in [reason, "oche: U-Boot starts without Oche in 1 s: 0"] {
        expect(&outcome, text).and_then(|()| expect_on_screen(&outcome, text))?;
    }
    compare(&wanted, &found(&outcome)?)?;
    if let Some(violation) = outcome.violations.first() {
        bail!("an M1 would not have forgiven this: {violation}");
    }
    Ok(())
}

/// What the tests' kernel prints, to its end.
fn found(outcome: &BoardOutcome) -> Result<Vec<String>> {
    expect(outcome, END)?;
    let lines = outcome.lines.iter().filter(|line| line.starts_with("native: "));
    Ok(lines.cloned().collect())
}

/// With `oche.fail-open=off` the machine stops.
fn stays_stopped(bench: &Bench, mac: &Mac, step: &Step) -> Result<()> {
    let name = "oche.fail-open is off";
    let mac = Mac { wrong_release: Some(mac.load + 0x100), ..mac.clone() };
    let mac = Mac { linger: std::time::Duration::from_secs(3), ..mac };
    let outcome = bench.run(name, &mac, step)?;
    expect(&outcome, "EL2 cannot store to its release address").context(name)?;
    if outcome.has_line("native: ") || outcome.has_line("starts without Oche") {
        bail!("{name}, and U-Boot starts");
    }
    Ok(())
}
