//! `cargo xtask check`: form, lints and documentation, each step by name.

use std::process::Command;

use anyhow::Result;
use oche::el2::{self, Toolchain};
use oche::progress::{Progress, Step};
use oche::{command, workspace};

use crate::environment;

/// The packages that are built for the target; what they depend on is checked with them.
pub(crate) const TARGET_PACKAGES: [&str; 7] = [
    el2::PACKAGE,
    "oche-m1",
    "oche-m1-probe",
    "oche-guest-hostile",
    "oche-guest-dart-driver",
    "oche-guest-m1n1-stub",
    "oche-guest-native",
];

/// Checks form, lints and documentation of everything, on the host and for the target.
///
/// # Errors
///
/// The first check that fails; its own output has the place.
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
    step.suspended(|| lint_target(toolchain))?;
    step.done("");

    let step = progress.step("Documentation (cargo doc)");
    run(
        &step,
        &["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"],
        "-D warnings",
    )?;
    step.done("");
    Ok(())
}

fn run(step: &Step, arguments: &[&str], documentation_flags: &str) -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).current_dir(workspace::root()).env("RUSTDOCFLAGS", documentation_flags);
    let what = format!("cargo {}", arguments.first().copied().unwrap_or_default());
    step.suspended(|| command::show(&mut cargo, &what))
}

/// Lints what is built for the target.
///
/// # Errors
///
/// A lint is broken, or the linter is missing (`environment::prepare_linter`).
fn lint_target(toolchain: Toolchain) -> Result<()> {
    let mut cargo = toolchain.cargo();
    cargo.arg(match toolchain {
        Toolchain::Rustup => "clippy",
        Toolchain::Debian => "check",
    });
    cargo.args(["--quiet", "--profile", el2::PROFILE]);
    cargo.args(TARGET_PACKAGES.iter().flat_map(|package| ["--package", package]));
    cargo
        .args(["--features", "oche-qemu-virt/panic-on-request,oche-qemu-virt/measure"])
        .args(toolchain.target_arguments());
    match toolchain {
        Toolchain::Rustup => {
            cargo.args(["--", "-D", "warnings"]);
        }
        // What rustup's `cargo clippy` would set for its own driver; a folder apart, or the plain
        // build's would be reused.
        Toolchain::Debian => {
            cargo.env("RUSTC_WORKSPACE_WRAPPER", oche::needs::DEBIAN_LINTER);
            cargo.env("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__");
            cargo.env("CARGO_TARGET_DIR", workspace::target().join("el2-debian-lint"));
        }
    }
    command::show(&mut cargo, "clippy for the target")
}
