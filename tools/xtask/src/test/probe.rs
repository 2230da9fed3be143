//! `oche probe` on the simulated M1: its report on the serial port, and the same one, byte for
//! byte, from the codes on the screen.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use oche::el2::{self, Toolchain};
use oche::progress::Step;
use oche::{command, workspace};
use oche_m1_probe::assumptions::{ASSUMPTIONS, Answer, Evidence};
use oche_m1_probe::codes;
use oche_m1_probe::reading::{self, Reading};
use oche_m1_probe::report::LAST_NAME;
use oche_m1_sim::dart::DartSetting;
use oche_m1_sim::flaw::Flaw;
use oche_m1_sim::{BoardOutcome, Mac, screen};
use oche_types::range::PhysRange;

use crate::environment;
use crate::m1::bench::{Bench, native_guest};
use crate::m1::u_boot;

/// How long the probe may take until it has shown all pages.
const LIMIT: Duration = Duration::from_secs(300);
/// Assumptions that lines answer, but not on the board: its CPUs are not Apple's.
const NOT_ON_THE_BOARD: [&str; 4] =
    ["bus-error-reported", "ctrr-below-image", "port-window-empty", "software-line"];
/// How long the report is shown before U-Boot starts, in seconds.
const SECONDS: u64 = 5;
/// The beginning of the lines of the kernel that stands for U-Boot, and the last of them.
const NATIVE: &str = "native: ";
const NATIVE_END: &str = "native: end";
/// The package of the probe's image.
const PACKAGE: &str = "oche-m1-probe";

/// Runs the probe, with and without something to start afterwards, on boards that are right and
/// wrong.
///
/// # Errors
///
/// The first run that went wrong, and how.
pub(super) fn run(toolchain: Toolchain, step: &Step) -> Result<String> {
    let folder = workspace::target().join("test").join("probe");
    workspace::create_folder(&folder)?;
    environment::prepare_codes(step)?;
    let bench = bench(toolchain, "probe.img", &[], &folder, step)?;
    let codes = whole_report(&bench, &folder, step)?;
    for (name, mac, assumptions) in wrong_boards() {
        wrong_board(&bench, name, &mac, assumptions, step)?;
    }
    next_starts(toolchain, &folder, step)?;
    u_boot_starts(toolchain, &folder, step)?;
    Ok(format!("{codes} codes on the screen give the report, and U-Boot starts after it"))
}

/// The bench of the image that `oche probe` writes.
fn bench(
    toolchain: Toolchain,
    name: &str,
    arguments: &[&str],
    folder: &Path,
    step: &Step,
) -> Result<Bench> {
    let path = folder.join(name);
    let mut line = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    line.current_dir(workspace::root());
    line.args(["run", "--quiet", "--package", "oche", "--", "probe", "--output"]).arg(&path);
    line.args(arguments);
    command::run(&mut line, "oche probe")?;
    let elf = el2::build_package(toolchain, PACKAGE, &[], step)?;
    Bench::of_image(toolchain, elf, path, folder, step)
}

/// A run of the probe: its outcome, and a picture of the screen for each page.
struct ProbeRun {
    outcome: BoardOutcome,
    pictures: Vec<PathBuf>,
}

/// Runs the probe until it has shown every code once.
fn show(bench: &Bench, name: &str, mac: &Mac, folder: &Path, step: &Step) -> Result<ProbeRun> {
    step.detail(name);
    let board = bench.board(mac)?;
    let memory = Rc::clone(board.memory());
    let mut pictures = Vec::new();
    let mut failure = None;
    let outcome = board.run(LIMIT, |line| {
        let Some((page, has_shown_codes)) = shown_page(line) else { return is_end(line) };
        let mut pixels = vec![0; mac.screen.size() as usize];
        memory.read(mac.screen.start, &mut pixels);
        let path = folder.join(format!("{}-{page}.png", name.replace(' ', "-")));
        failure = failure.take().or(screen::write_png(&pixels, &path).err());
        pictures.push(path);
        has_shown_codes
    })?;
    bench.keep(name, &outcome)?;
    if let Some(error) = failure {
        return Err(error);
    }
    Ok(ProbeRun { outcome, pictures })
}

/// The number of the page that a line of the console announces, and whether it has the last of the
/// codes.
fn shown_page(line: &str) -> Option<(usize, bool)> {
    let (page, what) = line.strip_prefix("oche: page ")?.split_once(": ")?;
    let page = page.split(' ').next()?.parse().ok()?;
    let codes =
        what.strip_prefix("codes ").and_then(|codes| codes.strip_suffix(", take a picture"));
    let has_last = codes.and_then(|codes| codes.split_once(" to ")?.1.split_once(" of "));
    Some((page, has_last.is_some_and(|(last, all)| last == all)))
}

/// Whether a line is the last one before its time.
fn is_end(line: &str) -> bool {
    line.starts_with("oche: panic: stopped") || line.starts_with("oche: fatal:")
}

/// What the serial port's output gives.
fn read_log(outcome: &BoardOutcome) -> Result<Reading> {
    match reading::read(outcome.lines.join("\r\n").as_bytes()) {
        Ok(reading) => Ok(reading),
        Err(error) => {
            let last = outcome.lines.last().map_or("nothing", String::as_str);
            bail!("the serial port: {}; its last line: {last}", error.reason())
        }
    }
}

/// A sound board: the report is whole, no assumption fails, and the codes on
/// the screen give the same one.
fn whole_report(bench: &Bench, folder: &Path, step: &Step) -> Result<usize> {
    let name = "a sound board";
    // Room for a block of 1 GiB between the image and its own memory.
    let mut mac = Mac { cpus: 2, ..Mac::default() };
    mac.memory.end += 2 << 30;
    mac.screen = PhysRange { start: mac.screen.start + (2 << 30), end: mac.screen.end + (2 << 30) };
    mac.settings[4] = DartSetting::Off;
    let run = show(bench, name, &mac, folder, step)?;
    let log = read_log(&run.outcome).context(name)?;
    if !log.is_whole {
        bail!("{name}: the serial port's report is damaged");
    }
    if let Some(violation) = run.outcome.violations.first() {
        bail!("an M1 would not have forgiven this: {violation}");
    }
    for assumption in ASSUMPTIONS {
        let is_answered = matches!(assumption.evidence, Evidence::Lines(_))
            && !NOT_ON_THE_BOARD.contains(&assumption.name);
        match assumption.answer(&log.text, log.is_whole) {
            Answer::Fails(lines) => bail!("{name}: {} fails: {}", assumption.name, lines[0]),
            Answer::NotAnswered(reason) if is_answered => {
                bail!("{name}: {} is not answered: {reason}", assumption.name)
            }
            Answer::Holds | Answer::NotAnswered(_) => {}
        }
    }
    let (code, _) = decode(&bench.log(name))?;
    if code != 0 {
        bail!("{name}: `oche probe --decode` ends with {code}");
    }
    let scanned = scan(&run.pictures, folder)?;
    let seen = reading::read(scanned.as_bytes());
    let Ok(seen) = seen else { bail!("{name}: zbarimg finds no code in the pictures") };
    if seen.text != log.text || !seen.is_whole {
        bail!(
            "{name}: the codes give another report, without {:?} of {} codes",
            seen.missing_codes,
            seen.codes
        );
    }
    Ok(codes::split(&log.text).len())
}

/// Boards on which assumptions fail, and their names.
fn wrong_boards() -> [(&'static str, Mac, &'static [&'static str]); 6] {
    let lacking = |flaw| Mac { flaw: Some(flaw), cpus: 2, ..Mac::default() };
    [
        ("a TCR that forgets", lacking(Flaw::DartForgetsTranslation), &["dart-reads-back"]),
        ("a TTBR too narrow", lacking(Flaw::NarrowTtbr), &["dart-reads-back"]),
        ("too few lines", lacking(Flaw::FewLines), &["port-line-exists"]),
        ("a CPU that stays away", lacking(Flaw::KeepsCpu), &["cpus-return"]),
        ("a CPU that sleeps on", lacking(Flaw::SleepsOn), &["cpus-return", "wfi-keeps-registers"]),
        (
            "a CPU that never enters",
            Mac { cpus: 2, missing: 1 << 1, ..Mac::default() },
            &["uncached-sees-stores"],
        ),
    ]
}

/// A board on which `assumptions` fail, and no others: `oche probe --decode` says so.
fn wrong_board(
    bench: &Bench,
    name: &str,
    mac: &Mac,
    assumptions: &[&str],
    step: &Step,
) -> Result<()> {
    step.detail(name);
    let is_last = |line: &str| line.starts_with(LAST_NAME) || is_end(line);
    let outcome = bench.board(mac)?.run(LIMIT, is_last)?;
    bench.keep(name, &outcome)?;
    let (code, text) = decode(&bench.log(name))?;
    let failing: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("fails ")?.trim_start().split(':').next())
        .collect();
    if code != 1 || failing != assumptions {
        bail!("{name}: `oche probe --decode` ends with {code} and says that {failing:?} fail");
    }
    Ok(())
}

/// With `--then`, the kernel that stands for U-Boot starts after the seconds that were asked for,
/// and finds what it finds without the probe; so does a second CPU, which the probe has used.
fn next_starts(toolchain: Toolchain, folder: &Path, step: &Step) -> Result<()> {
    let name = "U-Boot after the probe";
    let guest = native_guest(toolchain, &[], step)?;
    let kernel = guest.kernel.display().to_string();
    let seconds = SECONDS.to_string();
    let arguments = ["--then", &kernel, "--seconds", &seconds];
    let bench = bench(toolchain, "probe-then.img", &arguments, folder, step)?;
    let mac = Mac { cpus: 2, ..Mac::default() };
    step.detail(name);
    let is_last = |line: &str| line == NATIVE_END || is_end(line);
    let native = bench.native_board(&guest, &mac)?.run(LIMIT, is_last)?;
    bench.keep(&format!("{name}, without it"), &native)?;
    let mut reported = None;
    let mut started = None;
    let outcome = bench.board(&mac)?.run(LIMIT, |line| {
        if line.starts_with(LAST_NAME) {
            reported = Some(Instant::now());
        }
        if line.starts_with(NATIVE) && started.is_none() {
            started = Some(Instant::now());
        }
        is_last(line)
    })?;
    bench.keep(name, &outcome)?;
    let (Some(reported), Some(started)) = (reported, started) else {
        bail!("{name}: it does not start; the log: {}", bench.log(name).display())
    };
    let waited = started - reported;
    if !(SECONDS..2 * SECONDS + 5).contains(&waited.as_secs()) {
        bail!("{name}: it starts after {waited:?}, not after {SECONDS} s");
    }
    let found = |outcome: &BoardOutcome| -> Vec<String> {
        outcome.lines.iter().filter(|line| line.starts_with(NATIVE)).cloned().collect()
    };
    for (wanted, found) in found(&native).iter().zip(&found(&outcome)) {
        if wanted != found {
            bail!("without the probe the kernel finds `{wanted}`, and after it `{found}`");
        }
    }
    next_stays_away(&bench, step)?;
    if !outcome.has_line(NATIVE_END) || !outcome.has_line("native: level-of-cpu-1 0x2") {
        bail!("{name}: it does not come to its end with both CPUs");
    }
    match outcome.violations.first() {
        Some(violation) => bail!("an M1 would not have forgiven this: {violation}"),
        None => Ok(()),
    }
}

/// Debian's U-Boot starts after the probe, and prints its version.
fn u_boot_starts(toolchain: Toolchain, folder: &Path, step: &Step) -> Result<()> {
    let u_boot = u_boot::fetch(step)?;
    let name = "Debian's U-Boot after the probe";
    step.detail(name);
    let file = u_boot.binary.display().to_string();
    let arguments = ["--then", &file, "--seconds", "1"];
    let bench = bench(toolchain, "probe-u-boot.img", &arguments, folder, step)?;
    let mut mac = Mac { cpus: 2, ..Mac::default() };
    // U-Boot sets a GiB aside for a kernel.
    mac.memory.end += 2 << 30;
    mac.screen = PhysRange { start: mac.screen.start + (2 << 30), end: mac.screen.end + (2 << 30) };
    let is_version = |line: &str| line.starts_with("U-Boot 20");
    let outcome = bench.board(&mac)?.run(LIMIT, |line| is_version(line) || is_end(line))?;
    bench.keep(name, &outcome)?;
    if !outcome.lines.iter().any(|line| is_version(line)) {
        bail!("{name}: it does not start; the log: {}", bench.log(name).display());
    }
    Ok(())
}

/// A CPU that sleeps in the probe's code: U-Boot, which would be copied over it, does not start.
fn next_stays_away(bench: &Bench, step: &Step) -> Result<()> {
    let name = "no U-Boot over a CPU";
    step.detail(name);
    let linger = Duration::from_secs(2 * SECONDS);
    let mac = Mac { cpus: 2, flaw: Some(Flaw::SleepsOn), linger, ..Mac::default() };
    let outcome = bench.board(&mac)?.run(LIMIT, |line| line.starts_with("oche: page 1 "))?;
    bench.keep(name, &outcome)?;
    if !outcome.has_line("oche: no U-Boot: a CPU did not come back") || outcome.has_line(NATIVE) {
        bail!("{name}: see {}", bench.log(name).display());
    }
    Ok(())
}

/// The exit code and the output of `oche probe --decode` with a file.
fn decode(file: &Path) -> Result<(i32, String)> {
    let mut line = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    line.current_dir(workspace::root());
    line.args(["run", "--quiet", "--package", "oche", "--", "probe", "--decode"]).arg(file);
    let output = line.output().context("oche probe --decode")?;
    let code = output.status.code().context("oche probe --decode was killed")?;
    Ok((code, String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// The contents of all codes in the pictures, as zbarimg reads them.
fn scan(pictures: &[PathBuf], folder: &Path) -> Result<String> {
    let mut text = String::new();
    for picture in pictures {
        let mut zbarimg = Command::new("zbarimg");
        zbarimg.args(["--quiet", "--raw"]).arg(picture);
        // It fails if there is no code in the picture, as on a page of text.
        let output = zbarimg.output().context("zbarimg is missing: run `cargo xtask setup`")?;
        text.push_str(&String::from_utf8_lossy(&output.stdout));
    }
    fs::write(folder.join("codes.txt"), &text).context("the contents of the codes")?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use oche::workspace;
    use oche_m1_probe::assumptions::{ASSUMPTIONS, Evidence};

    /// The manual's rows by name, with the cell of the probe's lines.
    fn rows(manual: &str) -> BTreeMap<&str, &str> {
        let table = manual.split_once("\n## Assumptions\n").expect("the section").1;
        let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
        rows.map(|row| {
            let (name, rest) = row.split_once("` | ").expect("a name");
            (name, rest.rsplit(" | ").nth(1).expect("four cells"))
        })
        .collect()
    }

    #[test]
    fn manual_has_each_assumption_with_its_lines_or_the_reason_why_it_has_none() {
        let path = workspace::root().join("docs/m1.md");
        let manual = fs::read_to_string(path).expect("the manual");
        let rows = rows(&manual);
        let wanted: BTreeMap<&str, String> = ASSUMPTIONS
            .iter()
            .map(|assumption| {
                let cell = match assumption.evidence {
                    Evidence::Lines(lines) => {
                        lines.iter().map(|line| format!("`{line}`")).collect::<Vec<_>>().join(", ")
                    }
                    Evidence::None(reason) => format!("none: {reason}"),
                };
                (assumption.name, cell)
            })
            .collect();
        for (name, cell) in &wanted {
            assert_eq!(rows.get(name).copied(), Some(cell.as_str()), "{name}");
        }
        let more = rows.keys().find(|name| !wanted.contains_key(*name));
        assert_eq!(more, None, "the probe does not know it");
    }
}
