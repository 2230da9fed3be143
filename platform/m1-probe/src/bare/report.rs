//! The report, while it is written: each line goes to the consoles at once, and is kept.

use alloc::string::{String, ToString};
use core::fmt;

use oche_boot::bare::selftest;
use oche_el2::console::print;
use oche_el2::lock::SpinLock;
use oche_m1_probe::report::{FIRST_LINE, ReportWriter};

/// Attempts to take the lock of the report: a failure within a line keeps it.
const ATTEMPTS: usize = 1 << 20;

static WRITER: SpinLock<Option<ReportWriter>> = SpinLock::new(None);

/// Begins the report. Every line of the self-test goes into it from now on.
pub(super) fn begin() {
    *WRITER.lock() = Some(ReportWriter::default());
    print(format_args!("{FIRST_LINE}\n"));
    selftest::set_sink(add);
}

fn add(line: fmt::Arguments<'_>) {
    let line = line.to_string();
    print(format_args!("{line}\n"));
    if let Some(writer) = &mut *WRITER.lock() {
        writer.add(&line);
    }
}

/// The report as far as it was written, if it was begun and not finished. Called where the probe
/// cannot go on.
pub(super) fn take_part() -> Option<String> {
    let writer = WRITER.lock_within(ATTEMPTS)?.take()?;
    Some(writer.part())
}

/// Ends the report.
pub(super) fn finish() -> String {
    let writer = WRITER.lock().take();
    let text = writer.expect("invariant: the report has begun").finish();
    let last = text.lines().next_back().unwrap_or_default();
    print(format_args!("{last}\n"));
    text
}
