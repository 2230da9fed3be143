//! The trace that is read, and standard output.

use std::io::{self, BufWriter, StdoutLock, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::super::reader::TraceFile;

/// Opens the trace, and tells what is wrong with it. One with nothing in it is an error.
pub(super) fn open(path: &Path) -> Result<TraceFile> {
    let trace = TraceFile::open(path)?;
    if trace.sessions.is_empty() {
        bail!("{}: {}", path.display(), trace.warnings.join("; "));
    }
    for warning in &trace.warnings {
        crate::say!("oche: {}: {warning}", path.display());
    }
    Ok(trace)
}

/// Standard output, in pieces of a size that a pipe takes at once.
pub(super) type Output = BufWriter<StdoutLock<'static>>;

/// Lets `write` write to standard output; a reader who has seen enough (`| head`) is no error.
pub(super) fn to_standard_output(write: impl FnOnce(&mut Output) -> io::Result<()>) -> Result<()> {
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("writing to standard output")
        }
        _ => Ok(()),
    }
}
