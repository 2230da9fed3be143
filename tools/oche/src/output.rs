//! Standard output of all commands.

use std::io::{self, BufWriter, StdoutLock, Write};

use anyhow::{Context, Result};

/// Standard output, in pieces of a size that a pipe takes at once.
pub type Output = BufWriter<StdoutLock<'static>>;

/// Calls `write` with standard output and flushes it. A reader that has closed the pipe, such as
/// `head`, is no error: the rest of the output is dropped.
///
/// # Errors
///
/// Standard output cannot be written for another reason.
pub fn to_standard_output(write: impl FnOnce(&mut Output) -> io::Result<()>) -> Result<()> {
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            // Not written again when the buffer is dropped.
            let _ = out.into_parts();
            Ok(())
        }
        result => result.context("writing to standard output"),
    }
}
