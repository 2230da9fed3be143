//! The guest's own trace: text of ftrace, as `/sys/kernel/tracing/trace` and `trace-cmd report`
//! print it.
//!
//! Any text is read: lines that are no event are counted, and the first of them is named.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::words::parse_address;

/// Most digits of a second's fraction: nanoseconds.
const MAX_DECIMALS: usize = 9;

/// An event of the guest's trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FtraceEvent<'a> {
    /// The task's name.
    pub task: &'a str,
    /// The task's number.
    pub pid: u32,
    /// The CPU's number, as the guest counts.
    pub cpu: u32,
    /// Nanoseconds of the clock that ftrace used.
    pub time_ns: u64,
    /// The event's name.
    pub name: &'a str,
    /// Its fields, as ftrace prints them.
    pub fields: &'a str,
}

/// A line of the guest's trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FtraceLine<'a> {
    /// An event.
    Event(FtraceEvent<'a>),
    /// A comment, a blank line, or what `trace-cmd report` prints about its file.
    Comment,
    /// The guest lost events here.
    Lost,
    /// Something else.
    Malformed,
}

/// Reads a line, without its end.
pub fn parse_line(line: &str) -> FtraceLine<'_> {
    let text = line.trim();
    if text.is_empty() || text.starts_with('#') || is_of_trace_cmd(text) {
        return FtraceLine::Comment;
    }
    if text.starts_with("CPU:") && text.ends_with("EVENTS]") {
        return FtraceLine::Lost;
    }
    // A task's name may hold nearly anything: the first place that fits is taken.
    let found = text.match_indices('[').find_map(|(place, _)| parse_at(text, place));
    found.map_or(FtraceLine::Malformed, FtraceLine::Event)
}

/// The event whose CPU stands in the bracket at `place`.
fn parse_at(text: &str, place: usize) -> Option<FtraceEvent<'_>> {
    let (head, rest) = text.split_at_checked(place)?;
    let (cpu, rest) = rest.strip_prefix('[')?.split_once(']')?;
    let cpu = number(cpu)?;
    // With the option record-tgid, the group's number stands between: `dd-12 (   12) [000]`.
    let head = head.trim_end();
    let head = match head.strip_suffix(')').and_then(|head| head.rsplit_once('(')) {
        Some((task, group)) if number(group.trim()).is_some() || group.contains('-') => {
            task.trim_end()
        }
        _ => head,
    };
    let (task, pid) = head.rsplit_once('-')?;
    let pid = number(pid)?;
    // The flags, if any, then the time.
    let (first, after) = word(rest)?;
    let (time, after) = match first.strip_suffix(':').and_then(time_of) {
        Some(time) => (time, after),
        None => {
            let (second, after) = word(after)?;
            (time_of(second.strip_suffix(':')?)?, after)
        }
    };
    let after = after.trim_start();
    let (name, fields) = after.split_once(':').unwrap_or((after, ""));
    let is_name = !name.is_empty() && !name.contains(char::is_whitespace);
    is_name.then(|| FtraceEvent {
        task: task.trim(),
        pid,
        cpu,
        time_ns: time,
        name,
        fields: fields.trim(),
    })
}

/// `cpus=2`, `version = 7`, `CPU 1 is empty`.
fn is_of_trace_cmd(text: &str) -> bool {
    let is_cpu = text.strip_prefix("CPU ").is_some_and(|rest| rest.ends_with("is empty"));
    is_cpu
        || text.strip_prefix("cpus=").is_some_and(|count| number(count).is_some())
        || text.strip_prefix("version = ").is_some_and(|version| number(version).is_some())
}

fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let end = text.find(char::is_whitespace)?;
    text.split_at_checked(end)
}

fn number(digits: &str) -> Option<u32> {
    let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    if is_number { digits.parse().ok() } else { None }
}

/// Seconds with decimals, as nanoseconds. A time without decimals is of a clock that counts
/// something else (`counter`, `uptime`, `global` of old kernels).
fn time_of(text: &str) -> Option<u64> {
    let (whole, decimals) = text.split_once('.')?;
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(decimals) || decimals.len() > MAX_DECIMALS {
        return None;
    }
    let fraction: u64 = format!("{decimals:0<9}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1_000_000_000)?.checked_add(fraction)
}

/// The guest's trace, whole.
#[derive(Clone, Debug, Default)]
pub struct Ftrace {
    text: String,
    /// Lines that are no event, and the number of the first.
    malformed: Option<(u64, u64)>,
    /// Gaps in which the guest lost events.
    pub gaps: u64,
}

impl Ftrace {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// It cannot be read, or has no event.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let ftrace = Self::new(String::from_utf8_lossy(&bytes).into_owned());
        if ftrace.events().next().is_none() {
            bail!(
                "{}: no event of ftrace in it; it should be what /sys/kernel/tracing/trace or `trace-cmd report` \
                 prints, with times in seconds (a trace.dat needs `trace-cmd report` first)",
                path.display()
            );
        }
        if let Some(words) = ftrace.complaint() {
            crate::message!("oche: {}: {words}", path.display());
        }
        Ok(ftrace)
    }

    /// The trace that `text` is.
    pub fn new(text: String) -> Self {
        let (mut malformed, mut gaps) = (None, 0);
        for (index, line) in text.lines().enumerate() {
            match parse_line(line) {
                FtraceLine::Malformed => malformed.get_or_insert((0, index as u64 + 1)).0 += 1,
                FtraceLine::Lost => gaps += 1,
                FtraceLine::Event(_) | FtraceLine::Comment => {}
            }
        }
        Self { text, malformed, gaps }
    }

    /// Its events, in the order of the text.
    pub fn events(&self) -> impl Iterator<Item = FtraceEvent<'_>> {
        self.text.lines().filter_map(|line| match parse_line(line) {
            FtraceLine::Event(event) => Some(event),
            _ => None,
        })
    }

    /// What is wrong with it, in one line.
    pub fn complaint(&self) -> Option<String> {
        let malformed = self.malformed.map(|(count, first)| {
            let are = if count == 1 { "1 line is" } else { &format!("{count} lines are") };
            format!("{are} no event of ftrace and left out, the first is line {first}")
        });
        let gaps =
            (self.gaps > 0).then(|| format!("the guest lost events in {} places", self.gaps));
        let words: Vec<String> = malformed.into_iter().chain(gaps).collect();
        if words.is_empty() { None } else { Some(words.join("; ")) }
    }
}

/// The hexadecimal number behind `name` in an event's `fields`.
pub(super) fn address(fields: &str, name: &str) -> Option<u64> {
    let (_, rest) = fields.split_once(name)?;
    let digits = rest.split(|letter: char| letter.is_whitespace() || letter == ',').next()?;
    digits.starts_with("0x").then(|| parse_address(digits).ok()).flatten()
}

#[cfg(test)]
mod tests;
