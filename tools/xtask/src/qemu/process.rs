//! One running QEMU: started, watched, and in every case reaped.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use oche::command;

use crate::qemu::console::{ConsoleLine, Lines, Next};
use crate::qemu::machine::{PROGRAM, QemuMachine, Serial};
use crate::qemu::memory::GuestRam;
use crate::qemu::monitor::Monitor;
use crate::qemu::outcome::{RunEnding, verdict_of, verdict_of_exit};

/// How many of the console's last lines are kept for a report.
const LAST_LINES: usize = 20;

/// After a panic its backtrace still has to arrive.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long QEMU may take to end after its console closed.
const GOODBYE: Duration = Duration::from_secs(10);

/// A QEMU that runs until this value is dropped at the latest.
#[derive(Debug)]
pub struct Running {
    child: Child,
    memory: GuestRam,
    monitor: Monitor,
    lines: Lines,
    complaints: Option<JoinHandle<String>>,
    last_lines: VecDeque<String>,
}

/// The caller's decision after a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Wish {
    /// Go on watching.
    GoOn,
    /// Enough was seen: end QEMU.
    End,
}

impl Running {
    /// Starts QEMU with its console watched and kept in `log`; on a machine whose console is the
    /// terminal, the runner's standard input goes to the guest and the console comes out on its
    /// standard output.
    ///
    /// # Errors
    ///
    /// QEMU is missing or does not start; the error has its message.
    pub fn start(machine: &QemuMachine, log: &Path) -> Result<Self> {
        let mut memory = GuestRam::create(machine.memory_mib << 20)?;
        let socket = SocketFile::new();
        let is_shown = machine.serial == Serial::Terminal;
        let input = if is_shown { Stdio::inherit() } else { Stdio::null() };
        let mut child = spawn(machine, &memory, &socket.path, input)?;
        let (Some(console), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
            bail!("QEMU's output is not there");
        };
        let complaints = thread::spawn(move || read_all(errors));
        let monitor = match Monitor::connect(&socket.path) {
            Ok(monitor) => monitor,
            Err(error) => {
                reap(&mut child);
                let stderr = complaints.join().unwrap_or_default();
                bail!(
                    "QEMU does not start: {}",
                    stderr.lines().last().unwrap_or(&error.to_string())
                );
            }
        };
        // QEMU has it open by now.
        memory.forget_name();
        memory.show_as(&log.with_file_name("guest.ram"));
        let lines = match Lines::watch(console, log, is_shown) {
            Ok(lines) => lines,
            Err(error) => {
                reap(&mut child);
                return Err(error);
            }
        };
        Ok(Self {
            child,
            memory,
            monitor,
            lines,
            complaints: Some(complaints),
            last_lines: VecDeque::new(),
        })
    }

    /// The guest's RAM.
    #[must_use]
    pub fn memory(&self) -> &GuestRam {
        &self.memory
    }

    /// QEMU's monitor, and the RAM to look at beside it.
    pub fn monitor(&mut self) -> (&mut Monitor, &GuestRam) {
        (&mut self.monitor, &self.memory)
    }

    /// The console's last lines, for a report.
    #[must_use]
    pub fn last_lines(&self) -> String {
        self.last_lines.iter().map(|line| format!("    | {line}\n")).collect()
    }

    /// Watches the console until the machine ends, the caller has seen enough, or `limit` is over;
    /// QEMU is gone then.
    ///
    /// `on_line` sees every line.
    ///
    /// # Errors
    ///
    /// The errors of `on_line`; QEMU is ended then too.
    pub fn watch(
        &mut self,
        limit: Duration,
        on_line: impl FnMut(&mut Self, &ConsoleLine) -> Result<Wish>,
    ) -> Result<RunEnding> {
        self.watch_and_look(limit, on_line, |_| Ok(()))
    }

    /// As [`Running::watch`]; `on_tick` runs between lines, about four times a second.
    ///
    /// # Errors
    ///
    /// The errors of the caller's functions; QEMU is ended then too.
    pub fn watch_and_look(
        &mut self,
        limit: Duration,
        mut on_line: impl FnMut(&mut Self, &ConsoleLine) -> Result<Wish>,
        mut on_tick: impl FnMut(&mut Self) -> Result<()>,
    ) -> Result<RunEnding> {
        let ending = self.watch_until_end(limit, &mut on_line, &mut on_tick);
        // Asked first, so that it gives the terminal back as it found it.
        if self.monitor.quit().is_ok() {
            wait_within(&mut self.child, GOODBYE);
        }
        reap(&mut self.child);
        ending
    }

    fn watch_until_end(
        &mut self,
        limit: Duration,
        on_line: &mut impl FnMut(&mut Self, &ConsoleLine) -> Result<Wish>,
        on_tick: &mut impl FnMut(&mut Self) -> Result<()>,
    ) -> Result<RunEnding> {
        let mut deadline = Instant::now() + limit;
        let mut last_sign = Instant::now();
        let mut bad_news: Option<RunEnding> = None;
        loop {
            match self.lines.next(Duration::from_millis(250)) {
                Next::Line(line) => {
                    last_sign = line.at;
                    if self.last_lines.len() == LAST_LINES {
                        self.last_lines.pop_front();
                    }
                    self.last_lines.push_back(line.text.clone());
                    if bad_news.is_none()
                        && let Some(verdict) = verdict_of(&line.text)
                    {
                        bad_news = Some(verdict);
                        deadline = deadline.min(Instant::now() + LAST_WORDS);
                    }
                    if on_line(self, &line)? == Wish::End {
                        return Ok(bad_news.unwrap_or(RunEnding::Ended));
                    }
                }
                Next::Nothing => on_tick(self)?,
                Next::Closed => return Ok(bad_news.unwrap_or_else(|| self.say_goodbye())),
            }
            if Instant::now() >= deadline {
                let silent_seconds = last_sign.elapsed().as_secs();
                return Ok(bad_news.unwrap_or(RunEnding::TimedOut { silent_seconds }));
            }
        }
    }

    /// The console closed: QEMU is about to end by itself.
    fn say_goodbye(&mut self) -> RunEnding {
        let deadline = Instant::now() + GOODBYE;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    let stderr = self
                        .complaints
                        .take()
                        .and_then(|thread| thread.join().ok())
                        .unwrap_or_default();
                    return verdict_of_exit(status, &stderr);
                }
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
                _ => return RunEnding::QemuFailed("it closed its console and does not end".into()),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        reap(&mut self.child);
    }
}

fn spawn(machine: &QemuMachine, memory: &GuestRam, monitor: &Path, input: Stdio) -> Result<Child> {
    let launcher = launcher()?;
    let (program, first) = launcher.split_first().context("nothing starts QEMU")?;
    let mut line = Command::new(program);
    line.args(first).args(machine.arguments(memory, monitor));
    line.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    line.spawn().with_context(|| format!("cannot start {PROGRAM}"))
}

/// The program that starts QEMU and its first arguments; those of the machine follow.
///
/// # Errors
///
/// QEMU is missing.
pub(crate) fn launcher() -> Result<Vec<OsString>> {
    if !command::is_present(PROGRAM) {
        bail!("{}", command::missing(PROGRAM));
    }
    // setpriv (util-linux) asks the kernel to end QEMU when the runner dies in whatever way, then
    // becomes QEMU.
    let words: &[&str] = match command::is_present("setpriv") {
        true => &["setpriv", "--pdeathsig", "KILL", PROGRAM],
        false => &[PROGRAM],
    };
    Ok(words.iter().map(OsString::from).collect())
}

/// The major version of QEMU.
///
/// # Errors
///
/// QEMU is missing, or its version is no number.
pub(crate) fn version() -> Result<u32> {
    let text = command::text(Command::new(PROGRAM).arg("--version"), "asking for QEMU's version")?;
    major_version(&text).with_context(|| format!("QEMU's version is {}", text.trim()))
}

/// The first number of `QEMU emulator version 10.0.13 (...)`.
fn major_version(text: &str) -> Option<u32> {
    text.split_once("version ")?.1.split('.').next()?.parse().ok()
}

/// Waits for a child to end by itself, for a bounded time.
fn wait_within(child: &mut Child, patience: Duration) {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
        thread::sleep(Duration::from_millis(20));
    }
}

/// Ends a child, by its own handle, and collects it.
fn reap(child: &mut Child) {
    // Both fail only for a child that is gone and collected already.
    let _ = child.kill();
    let _ = child.wait();
}

fn read_all(mut source: impl Read) -> String {
    let mut bytes = Vec::new();
    // What was read before an error is kept.
    let _ = source.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A path for a socket: short, since a socket's path has about a hundred bytes at most. Removed
/// with the value.
struct SocketFile {
    path: PathBuf,
}

impl SocketFile {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self {
            path: Path::new("/tmp").join(format!("oche-monitor.{}.{count}", std::process::id())),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It is there only if QEMU came so far as to listen.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::major_version;

    #[test]
    fn the_major_version_is_the_first_number() {
        assert_eq!(major_version("QEMU emulator version 10.0.13 (Debian 1:10.0.13)\n"), Some(10));
        assert_eq!(major_version("QEMU emulator version 7.2.22\n"), Some(7));
        assert_eq!(major_version("QEMU"), None);
    }
}
