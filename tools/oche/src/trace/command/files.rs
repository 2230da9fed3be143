//! The trace that is read.

use std::path::Path;

use anyhow::{Result, bail};

use super::super::reader::TraceFile;

/// Opens the trace and prints what is wrong with it. A trace with nothing in it is an error.
pub(super) fn open(path: &Path) -> Result<TraceFile> {
    let trace = TraceFile::open(path)?;
    if trace.sessions.is_empty() {
        bail!("{}: {}", path.display(), trace.warnings.join("; "));
    }
    for warning in &trace.warnings {
        crate::message!("oche: {}: {warning}", path.display());
    }
    Ok(trace)
}
