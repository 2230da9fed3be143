//! The console: prints one line at a time, from any CPU, on a UART that the guest's driver uses
//! too.

use core::fmt::{self, Write};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::lock::{Once, SpinLock};

/// The output device of a board.
pub trait Console: Sync {
    /// Sends one byte. Waits for a bounded time for room and then drops the byte: the guest may
    /// have turned the device off.
    fn put(&self, byte: u8);

    /// Called before Oche prints its last line. A device that cannot show text may indicate that.
    fn on_fatal(&self) {}
}

static CONSOLE: Once<&'static dyn Console> = Once::new();
static LINE: SpinLock<()> = SpinLock::new(());
/// Attempts to take the console's lock before output goes ahead without it: a CPU that panicked
/// while it printed a line keeps the lock.
const LINE_ATTEMPTS: usize = 1 << 22;

/// Sets the device and enables `log`. Call once.
pub fn set(console: &'static dyn Console) {
    CONSOLE.set(console);
    // Fails only if a logger is set already, which is this one then.
    let _ = log::set_logger(&Logger);
    log::set_max_level(LevelFilter::Info);
}

/// Announces the last line that Oche prints.
pub fn on_fatal() {
    if let Some(console) = CONSOLE.get() {
        console.on_fatal();
    }
}

/// Prints formatted text without a prefix, not mixed with the output of other CPUs.
pub fn print(text: fmt::Arguments<'_>) {
    let _line = LINE.lock_within(LINE_ATTEMPTS);
    // Formatting into the console cannot fail.
    let _ = Output.write_fmt(text);
}

/// Writes text to the console in parts, so the output of several CPUs may mix.
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
