//! The file that is reported, and the commands about it that the page offers to copy.

use std::fmt::Write;
use std::path::Path;

use oche_trace::text::Clock;

use super::super::clock::ClockName;
use super::super::description::plain;
use super::super::lifetime::StreamPlace;
use super::super::words::seconds;
use crate::shell::quoted_path;

/// A trace's file, as a report names it.
#[derive(Clone, Debug, Default)]
pub struct ReportedFile {
    /// For people: without folders.
    pub(super) name: String,
    /// The trace, as one word of the shell.
    file: String,
    /// Further options, each begins with a space.
    options: String,
    /// The clock of all times.
    pub(super) clock: ClockName,
}

impl ReportedFile {
    /// The trace at `path`; `options` are pairs of an option and its value that each command about
    /// it has.
    pub fn new<'a>(path: &str, options: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        // A trace that came through a pipe has no name.
        let file = if path == "-" { "FILE".into() } else { quoted_path(path) };
        let options = options.into_iter().map(|(option, value)| format!(" {option} {value}"));
        let name = Path::new(path).file_name().map(|name| plain(&name.to_string_lossy()));
        Self {
            name: name.unwrap_or_default(),
            file,
            options: options.collect(),
            clock: ClockName::Oche,
        }
    }

    /// The same, with all times of `clock`.
    #[must_use]
    pub fn in_clock(self, clock: ClockName) -> Self {
        Self { clock, ..self }
    }

    /// Asks why `place` was refused at `iova`, from `first_ns` (a little of what came before) to
    /// `time_ns`, both in nanoseconds since Oche's start; without an address, checks that time.
    pub(super) fn about(
        &self,
        place: Option<StreamPlace>,
        iova: Option<u64>,
        first_ns: Option<u64>,
        time_ns: u64,
    ) -> String {
        let mut command = match iova {
            Some(iova) => format!("oche trace why {} --iova {iova:#x}", self.file),
            None => format!("oche trace check {}", self.file),
        };
        if let Some(place) = place {
            let _ = write!(command, " --stream {}:{}", place.dart(), place.stream());
        }
        let zero = Clock { counter_hz: 1_000_000_000, start_ticks: 0 };
        let [from, to] = [first_ns.unwrap_or(time_ns), time_ns].map(|time| seconds(zero, time));
        let _ = write!(command, " --from {from} --to {to}");
        command.push_str(&self.options);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_names_the_trace_whatever_it_is_called() {
        let place = StreamPlace::from_index(1);
        let why = ReportedFile::new("my trace's.oche", [("--boot", "2".to_owned())]);
        assert_eq!(
            why.about(place, Some(0xffe0_0040), Some(5), 1_000_000_007),
            concat!(
                r"oche trace why 'my trace'\''s.oche' --iova 0xffe00040 --stream 0:1",
                " --from 0.000000005 --to 1.000000007 --boot 2"
            )
        );
        let check = ReportedFile::new("-", []);
        assert_eq!(
            check.about(place, None, None, 5),
            "oche trace check FILE --stream 0:1 --from 0.000000005 --to 0.000000005"
        );
    }
}
