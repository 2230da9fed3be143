//! The folder of `cargo xtask nightly`: results, logs, clones.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use oche::progress::Step;
use oche::{command, workspace};

/// The folder of the results.
pub(super) fn folder() -> PathBuf {
    workspace::target().join("nightly")
}

/// Runs `command` with its output in `target/nightly/NAME.log`, and gives its last line.
pub(super) fn logged(step: &Step, name: &str, mut command: Command) -> Result<String> {
    let path = folder().join(format!("{name}.log"));
    step.detail(&format!("its output: {}", path.display()));
    let log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let errors = log.try_clone().context("the log")?;
    command.stdin(Stdio::null()).stdout(log).stderr(errors).env("NO_COLOR", "1");
    let status = command.status().with_context(|| format!("cannot start {name}"))?;
    let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    if !status.success() {
        bail!("{last} ({status}); its output: {}", path.display());
    }
    Ok(last.to_owned())
}

/// Clones the tree into `target/nightly/NAME`.
pub(super) fn clone(step: &Step, name: &str) -> Result<PathBuf> {
    let clone = folder().join(name);
    workspace::remove_folder(&clone)?;
    let mut git = Command::new("git");
    git.args(["clone", "--quiet", "--no-hardlinks"]).arg(workspace::root()).arg(&clone);
    command::run_showing_errors(&mut git, "cloning the tree", step)?;
    Ok(clone)
}

/// Cargo in `folder`, without what `cargo xtask` set for this tree.
pub(super) fn cargo(folder: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for name in ["CARGO_MANIFEST_DIR", "CARGO_TARGET_DIR"] {
        cargo.env_remove(name);
    }
    cargo.current_dir(folder);
    cargo
}

/// Runs another command of this program.
///
/// # Errors
///
/// As [`logged`].
pub(super) fn own(step: &Step, name: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(std::env::current_exe().context("this program's path")?);
    command.args(arguments).current_dir(workspace::root());
    logged(step, name, command)
}
