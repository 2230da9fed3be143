//! Programs of the guest that read its clock and count instructions: C without a library, compiled
//! for a folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use oche::{command, workspace};

/// What these programs share.
const HEADERS: [(&str, &str); 2] = [
    ("counters.h", include_str!("program/counters.h")),
    ("bell.h", include_str!("program/bell.h")),
];
/// The program that a script asks for the time and the counts.
const COUNT: &str = include_str!("program/count.c");
/// The program that keeps a network interface from sending out of several buffers.
const LINEAR_PACKETS: &str = include_str!("program/linear-packets.c");

/// Compiles the program `name` from `source` in `folder`. Returns its path.
///
/// # Errors
///
/// A file cannot be written, or the compiler is missing or fails.
pub(crate) fn compile(folder: &Path, name: &str, source: &str) -> Result<PathBuf> {
    let program = folder.join(name);
    let path = program.with_extension("c");
    for (header, text) in HEADERS {
        workspace::write_whole(&folder.join(header), text.as_bytes())?;
    }
    workspace::write_whole(&path, source.as_bytes())?;
    let mut compiler = Command::new("aarch64-linux-gnu-gcc");
    compiler.args(["-O1", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector"]);
    compiler.args(["-Wall", "-Werror", "-Wno-unused-function", "-o"]);
    command::run(compiler.arg(&program).arg(&path), "compiling a program of the guest")?;
    Ok(program)
}

/// Compiles `count` in `folder`: for each line that it reads, it prints the time and the counts.
///
/// # Errors
///
/// As [`compile`].
pub(crate) fn compile_count(folder: &Path) -> Result<PathBuf> {
    compile(folder, "count", COUNT)
}

/// Compiles `linear-packets` in `folder`: an interface then sends each packet out of one buffer.
///
/// # Errors
///
/// As [`compile`].
pub(crate) fn compile_linear_packets(folder: &Path) -> Result<PathBuf> {
    compile(folder, "linear-packets", LINEAR_PACKETS)
}
