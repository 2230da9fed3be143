//! The versions of what figures depend on.

use std::process::Command;

use anyhow::{Context, Result};
use oche::command;
use oche::el2::Toolchain;

use crate::guest::kernel::GuestKernel;
use crate::qemu::PROGRAM;

/// Release, package and version of the guest's kernel.
pub(super) fn kernel(kernel: &GuestKernel) -> String {
    format!("{} ({} {})", kernel.release, kernel.package, kernel.version)
}

/// The version of QEMU.
///
/// # Errors
///
/// QEMU is missing.
pub(super) fn qemu() -> Result<String> {
    first_line(Command::new(PROGRAM).arg("--version"))
}

/// The version of the compiler that builds for EL2.
///
/// # Errors
///
/// It is missing.
pub(super) fn compiler(toolchain: Toolchain) -> Result<String> {
    let cargo = toolchain.cargo();
    let chosen = cargo.get_envs().find(|(name, _)| *name == "RUSTC");
    let program = chosen.and_then(|(_, program)| program).unwrap_or("rustc".as_ref());
    first_line(Command::new(program).arg("--version"))
}

fn first_line(program: &mut Command) -> Result<String> {
    let text = command::text(program, "asking for a version")?;
    text.lines().next().map(str::to_owned).context("a program has no version")
}
