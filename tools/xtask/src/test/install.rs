//! `oche install`, `status` and `uninstall` on systems made of Debian's real packages: the
//! distribution's own script, shell and tools, m1n1 and U-Boot, in a folder.

mod bench;
mod boot;
mod faults;
mod refusals;
pub(crate) mod release;
mod system;

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use oche::command;
use oche::el2::Toolchain;
use oche::progress::Step;
use serde_json::Value;

use super::boot_file::Sources;
use bench::Workbench;
use system::{BOOT_FILE, Packages, ScratchSystem};

/// Debian's current stable and the newest.
const SUITES: [&str; 2] = ["trixie", "sid"];
/// An option to pack.
const OPTION: &str = "oche.pool=96M";

/// Installs, has the script run again, removes, and tries wrong input, on a system of each suite;
/// then boots what was installed.
///
/// # Errors
///
/// The first that went wrong.
pub(crate) fn run(toolchain: Toolchain, sources: &Sources, step: &Step) -> Result<String> {
    let bench = Workbench::make(toolchain, sources, step)?;
    let mut kernel = None;
    let mut versions = Vec::new();
    let mut refused = 0;
    let mut untried = "";
    for suite in SUITES {
        let packages = Packages::fetch(suite, sources.is_fresh, step)?;
        step.detail(&format!("m1n1 {} of {suite}", packages.m1n1));
        let system = bench.system(suite, &packages, step)?;
        let installed = life(&bench, &system).with_context(|| suite.to_owned())?;
        kernel = Some((installed, packages.u_boot.clone()));
        (refused, untried) = refusals::run(&bench, &system).with_context(|| suite.to_owned())?;
        versions.push(packages.m1n1);
    }
    let old = Packages::fetch(SUITES[0], false, step)?;
    let new = Packages::fetch(SUITES[1], false, step)?;
    upgrade(&bench, &old, &new, step).context("an upgrade while Oche is installed")?;
    let (kernel, version) = kernel.context("no suite")?;
    boot::boots(toolchain, &bench, &kernel, &version, step)?;
    let versions = versions.join(" and ");
    Ok(format!("m1n1 {versions}, {refused} wrong inputs refused{untried}, U-Boot boots"))
}

/// Injects every fault at every call, on a system of `suite`.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn run_faults(
    toolchain: Toolchain,
    sources: &Sources,
    suite: &str,
    step: &Step,
) -> Result<String> {
    let bench = Workbench::make(toolchain, sources, step)?;
    let packages = Packages::fetch(suite, sources.is_fresh, step)?;
    let system = bench.system(&format!("faults-{suite}"), &packages, step)?;
    let injected = faults::run(&bench, &system, &faults::FAULTS, step)?;
    Ok(format!("{injected} faults, boot.bin whole after each"))
}

/// An installation from its plan to its removal; returns the kernel that m1n1 would start.
fn life(bench: &Workbench, system: &ScratchSystem) -> Result<PathBuf> {
    let before = system.files()?;
    system.succeeds(&bench.arguments(&["--dry-run", "--option", OPTION]))?;
    system.expect_files(&before).context("after a dry run")?;
    let status = system.status(0)?;
    ensure!(status.pointer("/state") == Some(&"without-oche".into()), "{status}");

    system.succeeds(&bench.arguments(&["--option", OPTION]))?;
    let status = system.status(0)?;
    ensure!(status.pointer("/state") == Some(&"installed".into()), "{status}");
    ensure!(status.pointer("/backup") == Some(&true.into()), "{status}");
    let kernel = check_boot_file(bench, system)?;
    let installed = system.files()?;

    // As the hook of a kernel's package does; then the same installation again.
    system.run_script()?;
    system.status(0)?;
    check_boot_file(bench, system)?;
    system.succeeds(&bench.arguments(&[]))?;
    let status = system.status(0)?;
    let options = status.pointer("/record/installed/options");
    ensure!(options == Some(&serde_json::json!([["oche.pool", "96M"]])), "{status}");
    system.expect_files(&installed).context("after the same installation again")?;

    probe_instead(bench, system)?;
    system.succeeds(&bench.arguments(&[]))?;
    system
        .expect_files(&installed)
        .context("Oche after the probe, with the options from before")?;

    system.succeeds(&["uninstall", "--dry-run"])?;
    system.expect_files(&installed).context("after a removal's dry run")?;
    system.succeeds(&["uninstall"])?;
    system.expect_files(&before).context("after the removal")?;
    system.refuses(&["uninstall"], "no Oche is installed")?;
    edited_settings(bench, system, &before)?;
    Ok(kernel)
}

/// The probe takes Oche's place, also when the script runs again.
fn probe_instead(bench: &Workbench, system: &ScratchSystem) -> Result<()> {
    let elf = bench.elf.to_str().unwrap_or_default();
    system.refuses(&["install", "--probe", "--oche", elf], "is not the probe")?;
    system.succeeds(&bench.probe_arguments())?;
    system.run_script()?;
    let status = system.status(0)?;
    let starts = status.pointer("/starts").and_then(Value::as_str).unwrap_or_default();
    ensure!(starts.starts_with("the probe of Oche "), "{status}");
    let found = inspect(system, &[])?;
    let errors = found.pointer("/taken/errors").and_then(Value::as_array);
    ensure!(errors.is_some_and(Vec::is_empty), "{found:#}");
    ensure!(found.to_string().contains("m1-probe"), "{found:#}");
    Ok(())
}

/// Lines that were added since stay.
fn edited_settings(
    bench: &Workbench,
    system: &ScratchSystem,
    before: &system::Files,
) -> Result<()> {
    const SETTINGS: &str = "etc/default/update-m1n1";
    system.succeeds(&bench.arguments(&["--dtbs", "/boot/dtbs/t8103-*.dtb"]))?;
    let text = system.read(SETTINGS)?;
    ensure!(text.contains("\nDTBS=") && text.contains("\nU_BOOT=/var/lib/oche/oche-"), "{text}");
    system.write(SETTINGS, format!("{text}# mine too\n").as_bytes())?;
    let printed = system.succeeds(&["uninstall"])?;
    ensure!(printed.contains("only Oche's lines are removed"), "{printed}");
    let text = system.read(SETTINGS)?;
    ensure!(!text.contains("oche") && text.ends_with("# mine too\n"), "{text}");
    system.write(SETTINGS, text.trim_end_matches("# mine too\n").as_bytes())?;
    system.expect_files(before)
}

/// m1n1 and U-Boot are upgraded while Oche is installed: the script then writes a boot file with
/// Oche and the new m1n1, and a removal must not bring the old one back.
fn upgrade(bench: &Workbench, old: &Packages, new: &Packages, step: &Step) -> Result<()> {
    let system = bench.system("upgrade", old, step)?;
    system.succeeds(&bench.arguments(&[]))?;
    new.unpack_into(&system.folder)?;
    system.run_script()?;
    let status = system.status(1)?;
    let problems = status.pointer("/problems").map(ToString::to_string).unwrap_or_default();
    ensure!(problems.contains("the packed U-Boot is not the one of"), "{problems}");
    ensure!(status.pointer("/state") == Some(&"rewritten".into()), "{status}");
    system.succeeds(&bench.arguments(&[]))?;
    system.status(0)?;
    let with_oche = system.files()?;
    system.run_script()?;
    // The backup is of before the upgrade: its bytes are put back only if they are asked for.
    system.succeeds(&["uninstall", "--restore-backup"])?;
    let name = inspect(&system, &[])?.pointer("/boot_file/version").map(ToString::to_string);
    ensure!(name.is_some_and(|name| name.contains(&old.m1n1)), "the backup is not restored");
    system.restore(&with_oche)?;
    new.touch_trees(&system)?;
    system.run_script()?;
    let printed = system.succeeds(&["uninstall"])?;
    ensure!(printed.contains("written by update-m1n1, without Oche"), "{printed}");
    let found = inspect(&system, &[])?;
    let name = found.pointer("/boot_file/version").map(ToString::to_string).unwrap_or_default();
    ensure!(name.contains(&new.m1n1), "m1n1 in it is {name}");
    ensure!(
        found.pointer("/taken/warnings/0") == Some(&"the kernel is not Oche".into()),
        "{found}"
    );
    // The backup stays, and a later installation does not overwrite it.
    system.refuses(&bench.arguments(&[]), "move it away first")?;
    Ok(())
}

/// What m1n1 takes of the system's boot file: Oche, the Mac's tree, and the configuration.
fn check_boot_file(bench: &Workbench, system: &ScratchSystem) -> Result<PathBuf> {
    let kernel = bench.folder.join("extracted.img");
    let path = kernel.display().to_string();
    let found = inspect(system, &["--extract-kernel", &path])?;
    for list in ["/taken/errors", "/taken/warnings"] {
        let list = found.pointer(list).and_then(Value::as_array);
        ensure!(list.is_some_and(Vec::is_empty), "{found:#}");
    }
    let chosen = serde_json::json!([["marker", "1"]]);
    ensure!(found.pointer("/taken/chosen") == Some(&chosen), "{found:#}");
    ensure!(found.pointer("/taken/trees/0/0") == Some(&system::MAC.into()), "{found:#}");
    Ok(kernel)
}

fn inspect(system: &ScratchSystem, more: &[&str]) -> Result<Value> {
    let mut line = system.oche(&["inspect", "--json", "--mac", system::MAC]);
    line.args(more).arg(system.folder.join(BOOT_FILE));
    // A boot file without Oche has a warning, and is no error.
    let answer = command::answer(&mut line)?;
    if !answer.status.success() {
        bail!("oche inspect: {}", String::from_utf8_lossy(&answer.stderr));
    }
    serde_json::from_slice(&answer.stdout).context("what `oche inspect --json` prints")
}
