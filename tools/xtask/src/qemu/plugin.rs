//! The project's plugins for QEMU: built apart from the rest, which QEMU does not load.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use oche::command;
use oche::progress::Step;
use oche::workspace;

/// Builds the plugin of `package`. Returns the path of its library.
///
/// # Errors
///
/// It does not compile.
pub(crate) fn build(package: &str, step: &Step) -> Result<PathBuf> {
    step.detail(&format!("compiling {package}"));
    let folder = workspace::target().join("checker");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace::root()).args(["build", "--quiet", "--package", package]);
    cargo.arg("--target-dir").arg(&folder).env_remove("CARGO_BUILD_TARGET");
    command::run_showing_errors(&mut cargo, &format!("building {package}"), step)?;
    Ok(folder.join("debug").join(format!("lib{}.so", package.replace('-', "_"))))
}
