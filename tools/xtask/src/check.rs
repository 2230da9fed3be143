//! `cargo xtask check`: form, lints and documentation, each step by name.

use std::process::Command;

use anyhow::Result;

use oche::progress::{Progress, Step};
use oche::{command, el2, workspace};
use crate::environment;

/// Checks form, lints and documentation of everything, on the host and for the target.
///
/// # Errors
///
/// The first check that fails; its own output says where.
pub fn main() -> Result<()> {
    let progress = Progress::new(4);
    let step = progress.step("Form (cargo fmt)");
    run(&step, &["fmt", "--all", "--check"], "")?;
    step.done("");

    let step = progress.step("Lints, host (cargo clippy)");
    run(&step, &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"], "")?;
    step.done("");

    let step = progress.step("Lints, target (cargo clippy)");
    let toolchain = environment::prepare(&step)?;
    environment::prepare_linter(toolchain, &step)?;
    step.suspended(|| el2::lint(toolchain))?;
    step.done("");

    let step = progress.step("Documentation (cargo doc)");
    run(&step, &["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"], "-D warnings")?;
    step.done("");
    Ok(())
}

fn run(step: &Step, arguments: &[&str], documentation_flags: &str) -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).current_dir(workspace::root()).env("RUSTDOCFLAGS", documentation_flags);
    let what = format!("cargo {}", arguments.first().copied().unwrap_or_default());
    step.suspended(|| command::show(&mut cargo, &what))
}
