//! The guest's console: every byte kept in a file, every line handed to who watches.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// A longer line is handed on in pieces: a guest that prints no newline must not fill the runner's
/// memory.
const LINE_LIMIT: usize = 4096;

/// One line of the console, without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleLine {
    /// The time at which its end arrived.
    pub at: Instant,
    /// Its text; bytes that are not UTF-8 are replaced, carriage returns and escape sequences
    /// dropped.
    pub text: String,
}

/// The lines of a console as they come.
#[derive(Debug)]
pub(super) struct Lines {
    receiver: Receiver<ConsoleLine>,
}

/// The result of a wait for the next line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A line.
    Line(ConsoleLine),
    /// Nothing yet.
    Nothing,
    /// The console is closed: no line will follow.
    Closed,
}

impl Lines {
    /// Reads a console on a thread of its own and keeps every byte in the file `log`; with
    /// `is_shown` the bytes also go to the runner's own standard output, as they come.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub(super) fn watch(
        console: impl Read + Send + 'static,
        log: &Path,
        is_shown: bool,
    ) -> Result<Self> {
        let log_file =
            File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let (sender, receiver) = channel();
        thread::spawn(move || {
            let mut copies: Vec<Box<dyn Write>> = vec![Box::new(log_file)];
            if is_shown {
                copies.push(Box::new(std::io::stdout()));
            }
            pump(console, &mut copies, &sender);
        });
        Ok(Self { receiver })
    }

    /// Waits for the next line, for a bounded time.
    #[must_use]
    pub(super) fn next(&self, patience: Duration) -> Next {
        match self.receiver.recv_timeout(patience) {
            Ok(line) => Next::Line(line),
            Err(RecvTimeoutError::Timeout) => Next::Nothing,
            Err(RecvTimeoutError::Disconnected) => Next::Closed,
        }
    }
}

fn pump(mut console: impl Read, copies: &mut [Box<dyn Write>], sender: &Sender<ConsoleLine>) {
    let mut splitter = Splitter::default();
    let mut buffer = [0; 4096];
    loop {
        let bytes = match console.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => buffer.get(..count).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        for copy in &mut *copies {
            // A full disk or a closed terminal must not stop the watching: what is judged is what
            // arrives here.
            let _ = copy.write_all(bytes).and_then(|()| copy.flush());
        }
        for text in splitter.feed(bytes) {
            if sender.send(ConsoleLine { at: Instant::now(), text }).is_err() {
                return;
            }
        }
    }
    if let Some(text) = splitter.rest() {
        // Its reader has gone, so it is not missed.
        let _ = sender.send(ConsoleLine { at: Instant::now(), text });
    }
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
struct Splitter {
    begun: Vec<u8>,
}

impl Splitter {
    fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            if byte == b'\n' || self.begun.len() >= LINE_LIMIT {
                lines.push(clean(&std::mem::take(&mut self.begun)));
            }
            if byte != b'\n' {
                self.begun.push(byte);
            }
        }
        lines
    }

    fn rest(&mut self) -> Option<String> {
        (!self.begun.is_empty()).then(|| clean(&std::mem::take(&mut self.begun)))
    }
}

/// Drops carriage returns and terminal escape sequences, which a guest's line must not play on the
/// host's terminal.
fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut answer = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\u{1b}' => {
                if letters.next_if_eq(&'[').is_some() {
                    // A control sequence ends with a letter or one of @[\]^_`{|}~.
                    while letters.next().is_some_and(|part| !('@'..='~').contains(&part)) {}
                }
            }
            '\t' => answer.push(' '),
            letter if letter.is_control() => {}
            letter => answer.push(letter),
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::{LINE_LIMIT, Lines, Next, Splitter, clean};
    use std::time::Duration;

    #[test]
    fn lines_that_arrive_in_pieces_are_put_together() {
        let mut splitter = Splitter::default();
        assert!(splitter.feed(b"oche: pan").is_empty());
        assert_eq!(splitter.feed(b"ic: x\r\n\nnext"), ["oche: panic: x", ""]);
        assert_eq!(splitter.rest().as_deref(), Some("next"));
        assert_eq!(splitter.rest(), None);
    }

    #[test]
    fn a_line_without_end_is_handed_on_in_pieces() {
        let mut splitter = Splitter::default();
        let lines = splitter.feed(&vec![b'x'; 3 * LINE_LIMIT]);
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line.len() == LINE_LIMIT));
    }

    #[test]
    fn escape_sequences_do_not_reach_the_hosts_terminal() {
        assert_eq!(clean(b"\x1b[2J\x1b[1;31mred\x1b[0m\r"), "red");
        assert_eq!(clean(b"a\xffb\x07"), "a\u{fffd}b");
        assert_eq!(clean(b"\x1b["), "");
    }

    #[test]
    fn a_watched_console_is_kept_and_ends() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("console.log");
        let lines = Lines::watch(&b"one\ntwo"[..], &log, false).unwrap();
        let mut seen = Vec::new();
        loop {
            match lines.next(Duration::from_secs(5)) {
                Next::Line(line) => seen.push(line.text),
                Next::Nothing => panic!("the console neither speaks nor closes"),
                Next::Closed => break,
            }
        }
        assert_eq!(seen, ["one", "two"]);
        assert_eq!(std::fs::read(log).unwrap(), b"one\ntwo");
    }
}
