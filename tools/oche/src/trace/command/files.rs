//! The trace that is read: a file, or what a pipe brings.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::super::reader::TraceFile;

/// Opens the trace and prints what is wrong with it. A trace with nothing in it is an error. What
/// standard input (`-`) or a pipe brings is read to its end first, into a file without a name: a
/// trace is read in any order.
pub(super) fn open(path: &Path) -> Result<TraceFile> {
    let name = name(path);
    let trace = if is_standard(path) {
        spool(&mut io::stdin().lock(), &name)?
    } else if fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo()) {
        let mut pipe = File::open(path).with_context(|| format!("opening {name}"))?;
        spool(&mut pipe, &name)?
    } else {
        TraceFile::open(path)?
    };
    if trace.sessions.is_empty() {
        bail!("{name}: {}", trace.warnings.join("; "));
    }
    for warning in &trace.warnings {
        crate::message!("oche: {name}: {warning}");
    }
    Ok(trace)
}

/// Whether `path` stands for standard input or output.
pub(super) fn is_standard(path: &Path) -> bool {
    path == Path::new("-")
}

fn name(path: &Path) -> String {
    if is_standard(path) { "standard input".into() } else { path.display().to_string() }
}

fn spool(input: &mut impl io::Read, name: &str) -> Result<TraceFile> {
    let mut file = tempfile::tempfile().context("making a temporary file for the trace")?;
    io::copy(input, &mut file).with_context(|| format!("reading the trace from {name}"))?;
    TraceFile::from_source(file).with_context(|| format!("reading the trace from {name}"))
}
