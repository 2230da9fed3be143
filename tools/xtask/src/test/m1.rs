//! The simulated M1: the image that a Mac would get, at several addresses, with one CPU, with three
//! and with eight.

pub(super) mod expect;
mod fail_open;
mod first_screen;
mod hazards;
mod memory;
mod ordering;
mod staged;
pub(crate) mod u_boot;

pub(super) use ordering::VERDICT as ORDERING_VERDICT;

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use oche::decode_panic::command::functions;
use oche::el2::Toolchain;
use oche::progress::Step;
use oche::trace::{FileRecorder, TraceFile};
use oche::workspace;
use oche_m1_sim::dart::DartSetting;
use oche_m1_sim::{BoardOutcome, Mac};
use oche_types::range::PhysRange;

use expect::{count, expect, expect_on_screen};

use super::port;
use crate::guest::kernel::KernelChoice;
use crate::m1::bench::{self, Bench};
use crate::m1::linux;

/// The start of an error of a run of the board, as opposed to one of its preparation.
pub(crate) const VERDICT: &str = "on the simulated board: ";
/// Events that the kernel's DMA gives at least, until it reads the trace.
const LEAST_RECORDS: usize = 100;
/// Boots after which a CPU that still does not come counts as lost.
const BOOTS: usize = 3;
/// The load address of the image: any multiple of 2 MiB will do.
const ADDRESSES: [u64; 3] = [0x8_0800_0000, 0x8_2de0_0000, 0x8_0a60_0000];

/// CPUs, drivers and DARTs.
///
/// # Errors
///
/// The first run that went wrong, and how.
pub(super) fn run(toolchain: Toolchain, step: &Step) -> Result<String> {
    let bench = bench(toolchain, step)?;
    on_board(cpus_and_darts(&bench, step))?;
    Ok("every case ok".to_owned())
}

/// The guest's cases under the ordering checker.
///
/// # Errors
///
/// As [`run`]; and a rule of the checker is broken.
pub(super) fn run_ordering(toolchain: Toolchain, step: &Step) -> Result<String> {
    let folder = workspace::target().join("test").join("m1-ordering");
    ordering::run(&Bench::make_quickly(toolchain, &folder, step)?, &folder, step)
}

/// FIQs, directly and by virtual FIQ injection.
///
/// # Errors
///
/// As [`run`].
pub(super) fn run_fiqs(toolchain: Toolchain, step: &Step) -> Result<String> {
    fiqs(&bench(toolchain, step)?, step)?;
    Ok("every case ok".to_owned())
}

/// Options on the command line, and a panic.
///
/// # Errors
///
/// As [`run`].
pub(super) fn run_options(toolchain: Toolchain, step: &Step) -> Result<String> {
    let bench = bench(toolchain, step)?;
    wrong_options(&bench, step)?;
    staged::run(&bench, step)?;
    selftest(&bench, step)?;
    panics(toolchain, step)?;
    Ok("every case ok".to_owned())
}

/// Failures before the guest runs, with a packed U-Boot.
///
/// # Errors
///
/// As [`run`].
pub(super) fn run_fail_open(toolchain: Toolchain, step: &Step) -> Result<String> {
    fail_open::run(toolchain, step)?;
    Ok("every case ok".to_owned())
}

fn bench(toolchain: Toolchain, step: &Step) -> Result<Bench> {
    Bench::make(toolchain, &[], &workspace::target().join("test").join("m1"), step)
}

/// Marks a failure as a run's own, which `cargo xtask mutants` distinguishes from one to build.
fn on_board(result: Result<()>) -> Result<()> {
    result.map_err(|error| anyhow!("{}{error:#}", VERDICT))
}

/// The quick runs first: what is wrong with all of them should be reported soon.
fn cpus_and_darts(bench: &Bench, step: &Step) -> Result<()> {
    let [first, second, third] = ADDRESSES;
    for mac in [Mac { load: first, ..Mac::default() }, Mac { load: second, cpus: 3, ..ragged() }] {
        let name = format!("{} CPUs at {:#x}", mac.cpus, mac.load);
        let outcome = boot(bench, &name, &mac, step)?;
        memory::judge(&outcome, bench.image_at(mac.load)).context(name)?;
    }
    lost_cpu(bench, step)?;
    wrong_release(bench, step)?;
    first_screen::run(bench, step)?;
    hazards::run(bench, step)?;
    // A CPU that waits for an event keeps one of QEMU's threads busy, and each letter stops them
    // all.
    let chosen = vec![("oche.log".to_owned(), "warn".to_owned())];
    let mac = Mac { load: third, cpus: 8, chosen, ..two_banks() };
    boot(bench, &format!("8 CPUs at {third:#x}"), &mac, step)?;
    Ok(())
}

/// Memory that begins and ends at multiples of 4 KiB and no more, with as many reservations as m1n1
/// makes.
fn ragged() -> Mac {
    let reserved = (0..24).map(|index| {
        let start = 0x8_1000_1000 + index * 0x20_3000;
        PhysRange { start, end: start + 0x1000 * (1 + index) }
    });
    let memory = PhysRange { start: 0x8_019c_5000, end: 0x8_5d3e_7000 };
    // With the counts of tables in the log.
    let chosen = vec![("oche.log".to_owned(), "debug".to_owned())];
    Mac { memory, reserved: reserved.collect(), chosen, ..Mac::default() }
}

/// Two banks, with a hole between them that is no multiple of anything.
fn two_banks() -> Mac {
    let memory = PhysRange { start: 0x8_019c_4000, end: 0x8_3d3e_5000 };
    let second = PhysRange { start: 0x8_3f12_3000, end: 0x8_5d40_4000 };
    Mac { memory, more_memory: vec![second], ..Mac::default() }
}

/// A release address that EL2 cannot store to, here in Oche's own text: named with its CPU, and not
/// tried.
fn wrong_release(bench: &Bench, step: &Step) -> Result<()> {
    let mac = Mac { cpus: 2, ..Mac::default() };
    let mac = Mac { wrong_release: Some(mac.load + 0x100), ..mac };
    let name = "a release address that cannot be stored to";
    let outcome = bench.run(name, &mac, step)?;
    let wanted = format!(
        "oche: fatal: cpu 0x1: EL2 cannot store to its release address {:#x}",
        mac.load + 0x100
    );
    expect(&outcome, &wanted).context(name)
}

/// Boots until the guest has met every CPU that is not missing. Oche waits for each half a second,
/// in which a busy host may not have run its thread at all: what Oche then rightly leaves out is
/// asked for again.
fn boot(bench: &Bench, name: &str, mac: &Mac, step: &Step) -> Result<BoardOutcome> {
    let wanted = format!("guest: {} CPUs", mac.cpus - u64::from(mac.missing.count_ones()));
    for _ in 1..BOOTS {
        let outcome = bench.passes(name, mac, step)?;
        if outcome.has_line(&wanted) {
            return Ok(outcome);
        }
    }
    let outcome = bench.passes(name, mac, step)?;
    expect(&outcome, &wanted).context(name.to_owned())?;
    Ok(outcome)
}

/// The distribution's own kernel, from its first instruction to user space, with its own DART
/// driver.
///
/// # Errors
///
/// The first thing that went wrong.
pub(crate) fn run_stock_kernel(
    toolchain: Toolchain,
    choice: &KernelChoice,
    step: &Step,
) -> Result<String> {
    let folder = workspace::target().join("test").join("m1-linux");
    let (guest, kernel) = linux::prepare(choice, &folder, step)?;
    let bench = Bench::with_guest(toolchain, &[], &guest, &folder, step)?;
    step.detail(&kernel.release);
    let board = bench.board(&oche_m1_sim::linux::mac())?;
    let outside = folder.join("outside.oche");
    let recorder = FileRecorder::start(&board.memory().open_path(), &outside)?;
    let outcome = board.run(linux::LIMIT, |line| {
        if line.starts_with("guest: ") {
            step.detail(line);
        }
        bench::is_last(line)
    })?;
    recorder.finish()?;
    bench.keep("stock kernel", &outcome)?;
    bench::judge(&outcome)
        .with_context(|| format!("the log: {}", bench.log("stock kernel").display()))?;
    linux::judge(&outcome)?;
    let inside = folder.join("inside.oche");
    workspace::write_whole(&inside, &linux::printed_trace(&outcome)?)?;
    let records = port::compare(&TraceFile::open(&inside)?, &TraceFile::open(&outside)?)?;
    if records < LEAST_RECORDS {
        bail!("the guest read only {records} events from the port");
    }
    Ok(format!(
        "{}, user space, {} bytes of DMA, {records} events read from the port",
        kernel.release, outcome.copied_bytes
    ))
}

/// FIQs by both ways: the guest's cases are the same, and Oche's counters show which way they took.
fn fiqs(bench: &Bench, step: &Step) -> Result<()> {
    for (route, is_virtual) in [("direct", false), ("virtual", true)] {
        let chosen = vec![("oche.fiq".to_owned(), route.to_owned())];
        let outcome = bench.passes(
            &format!("FIQs, {route}"),
            &Mac { cpus: 2, chosen, ..Mac::default() },
            step,
        )?;
        expect(&outcome, "guest: the timer ticked through all of it ok")?;
        for cpu in 0..2 {
            let begin = format!("oche: exits of cpu {cpu}:");
            let line = outcome.lines.iter().find(|line| line.starts_with(&begin));
            let line = line.with_context(|| format!("no line has `{begin}`"))?;
            // A tick after which the guest reads a register that traps ends without a look: the
            // second CPU has only these.
            let names: &[&str] = if cpu == 0 || !is_virtual {
                &["fiq", "system_register", "fiq_poll"]
            } else {
                &["fiq", "system_register"]
            };
            for name in names {
                if (count(line, name)? != 0) != is_virtual {
                    bail!("oche.fiq={route}, and {line}");
                }
            }
        }
    }
    Ok(())
}

/// A CPU that never comes: the boot goes on, and the guest is not offered it.
fn lost_cpu(bench: &Bench, step: &Step) -> Result<()> {
    let mac = Mac { cpus: 3, missing: 1 << 1, ..Mac::default() };
    let name = "a CPU that never comes";
    let outcome = boot(bench, name, &mac, step)?;
    for wanted in ["cpu 0x1 stays off", "guest: cpu 0x2 comes ok"] {
        expect(&outcome, wanted).context(name)?;
    }
    Ok(())
}

/// Properties of `/chosen` that are wrong are named, and the boot goes on as without them.
fn wrong_options(bench: &Bench, step: &Step) -> Result<()> {
    let chosen = [
        ("oche.pool", "much"),
        ("oche.colour", "red"),
        ("oche.panic", "reboot"),
        ("oche.fiq", "el2"),
        ("oche.trace", "64K"),
    ];
    let chosen = chosen.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let outcome = bench.passes("wrong options", &Mac { chosen, ..Mac::default() }, step)?;
    for name in ["oche.pool", "oche.colour", "oche.panic", "oche.fiq"] {
        let wanted = format!("oche: warning: option ignored: {name}");
        expect(&outcome, &wanted)?;
        expect_on_screen(&outcome, &wanted)?;
    }
    if outcome.has_line("option ignored: oche.trace") {
        bail!("a right option is refused beside wrong ones");
    }
    Ok(())
}

/// The self-test prints its block, finds nothing wrong, touches no DART that is not idle, and the
/// guest runs as without it.
fn selftest(bench: &Bench, step: &Step) -> Result<()> {
    let mut mac = Mac { cpus: 2, ..Mac::default() };
    mac.chosen = vec![("oche.selftest".to_owned(), "1".to_owned())];
    // Room for a block of 1 GiB between the image and Oche's own memory.
    mac.memory.end += 2 << 30;
    mac.screen = PhysRange { start: mac.screen.start + (2 << 30), end: mac.screen.end + (2 << 30) };
    mac.settings[3] = DartSetting::Live;
    mac.settings[4] = DartSetting::Off;
    let outcome = bench.run("self-test", &mac, step)?;
    if let Some(violation) = outcome.violations.first() {
        bail!("an M1 would not have forgiven this: {violation}");
    }
    let block: Vec<&String> = outcome
        .lines
        .iter()
        .skip_while(|line| *line != "```")
        .skip(1)
        .take_while(|line| *line != "```")
        .collect();
    let wrong = block.iter().find(|line| line.split(' ').any(|word| word == "WRONG"));
    if let Some(line) = wrong {
        bail!("the self-test finds something wrong: {line}");
    }
    for (name, verdict) in SELFTEST {
        let line = block.iter().find(|line| line.split(' ').next() == Some(name));
        let Some(line) = line else { bail!("the self-test has no line {name}") };
        if !line.contains(verdict) {
            bail!("the self-test should report {verdict}: {line}");
        }
    }
    for wanted in ["guest: u-boot: 16K, then linux: 4K ok", "guest: a locked DART is as it was ok"]
    {
        expect(&outcome, wanted)?;
    }
    Ok(())
}

/// Lines of the self-test, and how they end here.
const SELFTEST: [(&str, &str); 26] = [
    ("oche.version", " m1 -"),
    ("oche.build", " -"),
    ("machine.cpus", "2 CPUs -"),
    ("cpu.e2h", "1 HCR_EL2.E2H ok"),
    ("cpu.stage2-4k", " ok"),
    ("apple.ctrr", "skipped: not Apple's CPU"),
    ("memory.copy-4k", " ns -"),
    ("memory.wide-words", " bytes ok"),
    ("cache.uncached-sees-cleaned", " ok"),
    ("hvc.round-trip", " ns -"),
    ("stage2.page-away-and-home", " ok"),
    ("stage2.change-all-cpus", " ns -"),
    ("stage2.block-1g", " word ok"),
    ("aic.lines", "896 INFO ok"),
    ("fiq.injected", " ok"),
    ("fiq.virtual-timer", " ok"),
    ("fiq.physical-timer", " ok"),
    ("fiq.by-el2.virtual-timer", " ok"),
    ("fiq.by-el2.physical-timer", " ok"),
    ("dart.pcie0_dart_0.tcr-holds", "0x80 TCR ok"),
    ("dart.pcie0_dart_0.invalidate", " ns -"),
    ("dart.dwc3_0_dart_1.words", ",ttbr"),
    ("dart.sio_dart.words", "power=0x0 raw -"),
    ("dart.dwc3_0_dart_1.invalidate", "skipped: it is in use"),
    ("dart.sio_dart.invalidate", "skipped: it has no power"),
    ("mmio.serror-window", " ok"),
];

/// A panic while the guest has the screen: it is on the screen and the serial port from its first
/// word on, and the machine resets if a person asked for that, and not otherwise.
fn panics(toolchain: Toolchain, step: &Step) -> Result<()> {
    let folder = workspace::target().join("test").join("m1-panic");
    let bench = Bench::make(toolchain, &["panic-on-request"], &folder, step)?;
    for (name, end) in [("a panic that stops", "stop"), ("a panic that resets", "reset")] {
        step.detail(name);
        let chosen = [("bootargs", "guest=panic"), ("oche.panic", end)];
        let chosen = chosen.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let mac = Mac { chosen, linger: Duration::from_secs(1), ..Mac::default() };
        let outcome =
            bench.board(&mac)?.run(bench::LIMIT, |line| line == "oche: panic: stopped")?;
        bench.keep(name, &outcome)?;
        let resets = end == "reset";
        let mut wanted = vec![
            "oche: panic: cpu 0: on the guest's request",
            "oche: panic: photograph this screen",
            "oche: panic: stopped",
        ];
        // A Mac that restarts shows nothing that a person should do.
        let power_button = "oche: panic: hold the power button";
        if !resets {
            wanted.push(power_button);
        } else if outcome.has_line(power_button) {
            bail!("{name}: the power button is not needed");
        }
        for wanted in wanted {
            expect(&outcome, wanted)?;
            expect_on_screen(&outcome, wanted)?;
        }
        let functions = functions(&outcome.lines.join("\n"), &bench.oche)?;
        if !functions.iter().any(|name| name == "obey" || name.ends_with("::obey")) {
            bail!("{name}: `oche decode-panic` does not find what panicked: {functions:?}");
        }
        if outcome.is_reset != resets {
            bail!("{name}: the watchdog was {}armed", if outcome.is_reset { "" } else { "not " });
        }
    }
    Ok(())
}
