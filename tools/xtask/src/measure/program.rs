//! Programs of the guest that count instructions: C without a library, compiled for a folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use oche::{command, workspace};

/// What these programs share.
const COUNTERS: &str = include_str!("counters.h");

/// Compiles the program `name` from `source` in `folder`. Returns its path.
///
/// # Errors
///
/// A file cannot be written, or the compiler is missing or fails.
pub(super) fn compile(folder: &Path, name: &str, source: &str) -> Result<PathBuf> {
    let program = folder.join(name);
    let path = program.with_extension("c");
    workspace::write_whole(&folder.join("counters.h"), COUNTERS.as_bytes())?;
    workspace::write_whole(&path, source.as_bytes())?;
    let mut compiler = Command::new("aarch64-linux-gnu-gcc");
    compiler.args(["-O1", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector"]);
    compiler.args(["-Wall", "-Werror", "-Wno-unused-function", "-o"]);
    command::run(compiler.arg(&program).arg(&path), "compiling a program of the guest")?;
    Ok(program)
}
