//! The console: one line at a time, from any CPU, shared with the guest's own driver of the same
//! UART.

use core::fmt::{self, Write};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::lock::{Once, SpinLock};

/// A machine's way to put a byte out.
pub trait Console: Sync {
    /// Sends one byte. Waits at most a bounded time for room and drops the byte when there is none:
    /// the guest may have turned the device off.
    fn put(&self, byte: u8);

    /// The last line that Oche prints is about to come. A device that cannot show text may show
    /// that much.
    fn on_fatal(&self) {}
}

static CONSOLE: Once<&'static dyn Console> = Once::new();
static LINE: SpinLock<()> = SpinLock::new(());
/// Attempts to get the line before output goes ahead anyway: a CPU that panicked inside a line
/// keeps it.
const LINE_ATTEMPTS: usize = 1 << 22;

/// Names the device and turns `log` on. Call once.
pub fn set(console: &'static dyn Console) {
    CONSOLE.set(console);
    // Only fails when a logger is set already, and then it is this one.
    let _ = log::set_logger(&Logger);
    log::set_max_level(LevelFilter::Info);
}

/// Announces the last line that Oche prints.
pub fn on_fatal() {
    if let Some(console) = CONSOLE.get() {
        console.on_fatal();
    }
}

/// Prints formatted text without a prefix, whole before anyone else's.
pub fn print(text: fmt::Arguments<'_>) {
    let _line = LINE.lock_within(LINE_ATTEMPTS);
    // Formatting into the console cannot fail.
    let _ = Output.write_fmt(text);
}

/// The console as a writer of text in pieces; lines of several CPUs may then mix.
#[derive(Clone, Copy, Debug)]
pub struct Writer;

impl Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        print(format_args!("{text}"));
        Ok(())
    }
}

struct Output;

impl Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let Some(console) = CONSOLE.get() else { return Ok(()) };
        for byte in text.bytes() {
            if byte == b'\n' {
                console.put(b'\r');
            }
            console.put(byte);
        }
        Ok(())
    }
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let level = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info => "",
            Level::Debug | Level::Trace => "debug: ",
        };
        print(format_args!("oche: {level}{}\n", record.args()));
    }

    fn flush(&self) {}
}
