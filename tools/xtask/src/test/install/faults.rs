//! A full disk, a failing disk and a killed program, at each write, rename and synchronization of
//! `oche install` and `oche uninstall` and of the programs that they run.
//!
//! strace injects the fault into the N-th such call of every process, for N from 1 until a run ends
//! untouched. Behind each, the boot file has to be the old one or the new one, `oche status` has to
//! say what is amiss, and the same command has to succeed then and yield the very files.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use oche::command;
use oche::progress::Step;
use serde_json::Value;

use super::bench::Workbench;
use super::system::{BOOT_FILE, Files, ScratchSystem};

/// The calls, a set each. What writes, what gives a file its name, and what brings it to the disk.
const CALLS: [&str; 3] = [
    "write,writev,pwrite64,sendfile,copy_file_range",
    "/^rename,/^unlink,/^mkdir",
    "fsync,fdatasync,sync_file_range,syncfs",
];
/// The faults.
pub(super) const FAULTS: [&str; 3] = ["error=ENOSPC", "error=EIO", "signal=KILL"];
/// The folder of the record.
const RECORDS: &str = "var/lib/oche/";
/// No command has so many such calls in one process.
const MAX_CALLS: usize = 400;

/// The states of a system before and after an installation.
struct States {
    before: Files,
    installed: Files,
}

/// Tries the `faults`; returns how many were injected.
///
/// # Errors
///
/// A boot file was damaged, or a run did not end as it has to.
pub(super) fn run(
    bench: &Workbench,
    system: &ScratchSystem,
    faults: &[&str],
    step: &Step,
) -> Result<usize> {
    let before = system.changing()?;
    system.succeeds(&bench.arguments(&[]))?;
    let states = States { installed: system.changing()?, before };
    system.succeeds(&["uninstall"])?;
    ensure!(system.changing()? == states.before, "the removal leaves something");
    let install = bench.arguments(&[]);
    let mut injected = 0;
    for fault in faults {
        for calls in CALLS {
            step.detail(&format!("{fault} at {calls}, {injected} so far"));
            let (from, to) = (&states.before, &states.installed);
            injected += each(system, &states, &install, (from, to), &format!("{calls}:{fault}"))?;
            injected +=
                each(system, &states, &["uninstall"], (to, from), &format!("{calls}:{fault}"))?;
        }
    }
    system.restore_changing(&states.before)?;
    Ok(injected)
}

/// Injects a fault at each call of a command that takes the system `from` one state `to` another.
fn each(
    system: &ScratchSystem,
    states: &States,
    arguments: &[&str],
    (from, to): (&Files, &Files),
    what: &str,
) -> Result<usize> {
    for number in 1..MAX_CALLS {
        system.restore_changing(from)?;
        let name = format!("{} with {what} at call {number}", arguments.first().unwrap_or(&""));
        if !inject(system, arguments, what, number).context(name.clone())? {
            ensure!(&system.changing()? == to, "{name}: the run is untouched and ends elsewhere");
            return Ok(number - 1);
        }
        judge(system, states, arguments, to).context(name)?;
    }
    bail!("{what}: more than {MAX_CALLS} calls")
}

/// Runs the command with the fault; returns whether any process got one.
fn inject(system: &ScratchSystem, arguments: &[&str], what: &str, number: usize) -> Result<bool> {
    let log = system.folder.with_extension("strace");
    let line = system.command(arguments);
    let set = what.split(':').next().unwrap_or_default();
    let mut run = Command::new("strace");
    run.args(["-f", "-qq", "-o"]).arg(&log);
    run.args(["-e", &format!("trace={set}"), "-e", &format!("inject={what}:when={number}")]);
    run.arg(line.get_program()).args(line.get_args());
    // Killed, failed or neither: what is on the disk counts.
    command::answer(&mut run)?;
    let text = fs::read(&log).context("strace's log")?;
    let text = String::from_utf8_lossy(&text);
    Ok(text.contains("(INJECTED)") || text.contains("killed by SIGKILL"))
}

/// The boot file is whole, the state is named, and the command can be run again.
fn judge(system: &ScratchSystem, states: &States, arguments: &[&str], to: &Files) -> Result<()> {
    let found = fs::read(system.folder.join(BOOT_FILE)).context("there is no boot.bin")?;
    let is = |files: &Files| files.get(BOOT_FILE).is_some_and(|(_, bytes)| *bytes == found);
    let (is_old, is_new) = (is(&states.before), is(&states.installed));
    ensure!(is_old || is_new, "boot.bin is neither the old one nor the new one");
    let answer = command::answer(&mut system.command(&["status", "--json"]))?;
    let status: Value = serde_json::from_slice(&answer.stdout).with_context(|| {
        format!("`oche status` fails: {}", String::from_utf8_lossy(&answer.stderr))
    })?;
    let state = status.pointer("/state").and_then(Value::as_str).unwrap_or_default();
    ensure!(state == if is_old { "without-oche" } else { "installed" }, "status: {status}");
    // A half-written file under a name that means nothing does no harm; the next run removes it.
    let is_half = |name: &str| name.ends_with(".oche-tmp") || name.contains("boot.bin.oche-new");
    let all = without_empty_records(system.changing()?);
    let mut now = all.clone();
    now.retain(|name, _| !is_half(name));
    let now = without_empty_records(now);
    let is_settled = now == states.before || now == states.installed;
    let has_problem = answer.status.code() == Some(1);
    ensure!(has_problem != is_settled, "settled: {is_settled}, and status: {status}");
    // A removal that had come to its end has nothing to remove.
    if arguments == ["uninstall"] && status.pointer("/record").is_none_or(Value::is_null) {
        ensure!(&all == to, "a removal without a record has left something");
        return Ok(());
    }
    system.succeeds(arguments).context("the same command again")?;
    system.expect_changing(to)
}

/// `files`, without the folder of the record where nothing is in it: a command that is killed right
/// after making it, or right before removing it, leaves it empty.
fn without_empty_records(mut files: Files) -> Files {
    if !files.keys().any(|name| name.starts_with(RECORDS) && name != RECORDS) {
        files.remove(RECORDS);
    }
    files
}

/// The folders in which a command may change anything.
const CHANGING: [&str; 3] = ["boot", "etc", "var"];

impl ScratchSystem {
    /// The files of the folders in which a command may change anything.
    fn changing(&self) -> Result<Files> {
        self.files_in(&CHANGING)
    }

    fn expect_changing(&self, wanted: &Files) -> Result<()> {
        let found = self.changing()?;
        let mut names = wanted.keys().chain(found.keys());
        match names.find(|name| wanted.get(*name) != found.get(*name)) {
            Some(name) => bail!("{name} is not as it has to be"),
            None => Ok(()),
        }
    }

    fn restore_changing(&self, wanted: &Files) -> Result<()> {
        self.restore_in(&CHANGING, wanted)
    }
}
