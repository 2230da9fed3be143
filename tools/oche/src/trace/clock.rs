//! The clock that a view's times are of: Oche's, one of the guest's, or UTC.
//!
//! Oche's clock is the generic timer's counter since Oche's start. The guest's virtual counter is
//! the same counter (`CNTVOFF_EL2` is 0), so a guest's clock differs by an offset. NTP slews `boot`
//! and `mono` by up to 500 parts in a million; `local` (ftrace's default, and dmesg's) and
//! `mono_raw` are never slewed.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use oche_trace::text::Clock;

use super::align::align;
use super::ftrace::Ftrace;
use super::reader::{ByteSource, TraceFile};
use super::summary::wall_clock;
use super::words::{seconds, span};
use crate::shell::quoted_path;

/// A clock, by the name that ftrace and perf give it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ClockName {
    /// Seconds since Oche's start
    #[default]
    Oche,
    /// The guest's clock of dmesg, and of ftrace by default
    Local,
    /// The guest's CLOCK_BOOTTIME
    Boot,
    /// The guest's CLOCK_MONOTONIC
    Mono,
    /// The guest's CLOCK_MONOTONIC_RAW
    #[value(name = "mono_raw")]
    MonoRaw,
    /// Seconds since 1970 UTC
    Utc,
}

/// The clock that is shown, and how it is known.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Clock")]
pub struct ClockOptions {
    /// Print times, and take those of --from, --to and --at, in this clock. A clock of the guest
    /// needs --ftrace or --clock-offset
    #[arg(long, value_enum, value_name = "CLOCK", default_value_t)]
    pub clock: ClockName,
    /// Learn the guest's clock from its ftrace text with iommu events, recorded in that clock
    /// meanwhile (`trace-cmd record -C CLOCK -e iommu`)
    #[arg(long, value_name = "FILE", conflicts_with = "clock_offset")]
    pub ftrace: Option<PathBuf>,
    /// Take the clock to stand at this many seconds at Oche's start
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub clock_offset: Option<f64>,
}

impl ClockOptions {
    /// Makes the views of `trace` show this clock; prints how exactly it is known.
    ///
    /// # Errors
    ///
    /// The clock is not known; the remedy.
    pub fn apply<S: ByteSource>(&self, trace: &mut TraceFile<S>) -> Result<()> {
        if self.clock == ClockName::Oche {
            if self.ftrace.is_some() || self.clock_offset.is_some() {
                bail!("--ftrace and --clock-offset need --clock: which clock do they stand for?");
            }
            return Ok(());
        }
        let mut is_known = false;
        for session in 0..trace.sessions.len() {
            let Some(start_ns) = self.start_ns(trace, session)? else { continue };
            is_known = true;
            if let Some(of) = trace.sessions.get_mut(session) {
                of.description.show_clock(shifted(of.description.own_clock(), start_ns));
            }
        }
        if is_known { Ok(()) } else { bail!("{}", self.remedy()) }
    }

    /// This clock's nanoseconds at Oche's start in boot number `session`; `None`: unknown.
    fn start_ns<S: ByteSource>(
        &self,
        trace: &TraceFile<S>,
        session: usize,
    ) -> Result<Option<i128>> {
        if let Some(offset) = self.clock_offset {
            if !offset.is_finite() || offset.abs() > 1e10 {
                bail!("--clock-offset takes seconds");
            }
            return Ok(Some((offset * 1e9).round() as i128));
        }
        let Some(of) = trace.sessions.get(session) else { return Ok(None) };
        if let Some(path) = &self.ftrace {
            // The guest's trace is of one boot: the last.
            if session + 1 != trace.sessions.len() {
                return Ok(None);
            }
            let found = align(&Ftrace::open(path)?, trace, session)?;
            let start_ns = -i128::from(found.offset_ns);
            crate::message!(
                "oche: {} at Oche's start: {} s, or up to {} more; by {} pages",
                self.name(),
                signed_seconds(start_ns),
                span(found.slack_ns),
                found.pages
            );
            return Ok(Some(start_ns));
        }
        if self.clock != ClockName::Utc {
            return Ok(None);
        }
        let clock = of.description.own_clock();
        let known = wall_clock(of, clock, clock.start_ticks);
        if known.is_some() {
            let source = match of.description.machine.wall_clock_nanoseconds {
                Some(_) => "the machine's clock at Oche's start, which counts whole seconds",
                None => "the recording computer's clock, within 10 ms and its own error",
            };
            crate::message!("oche: utc is known by {source}");
        }
        Ok(known.map(i128::from))
    }

    /// The options of a command line that choose this clock, each with its value.
    pub fn options(&self) -> impl Iterator<Item = (&'static str, String)> {
        let is_other = self.clock != ClockName::Oche;
        let clock = is_other.then(|| ("--clock", self.name().to_owned()));
        let ftrace = self.ftrace.as_ref();
        let ftrace = ftrace.map(|path| ("--ftrace", quoted_path(&path.to_string_lossy())));
        let offset = self.clock_offset.map(|offset| ("--clock-offset", offset.to_string()));
        clock.into_iter().chain(ftrace).chain(offset)
    }

    fn name(&self) -> &'static str {
        self.clock.name()
    }
}

impl ClockName {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Oche => "oche",
            Self::Local => "local",
            Self::Boot => "boot",
            Self::Mono => "mono",
            Self::MonoRaw => "mono_raw",
            Self::Utc => "utc",
        }
    }

    /// The moment at which it stands at 0, for people.
    pub fn zero(self) -> &'static str {
        match self {
            Self::Oche => "after Oche's start",
            Self::Local => "of the guest's clock of dmesg",
            Self::Boot => "of the guest's CLOCK_BOOTTIME",
            Self::Mono => "of the guest's CLOCK_MONOTONIC",
            Self::MonoRaw => "of the guest's CLOCK_MONOTONIC_RAW",
            Self::Utc => "since 1970 UTC",
        }
    }
}

impl ClockOptions {
    fn remedy(&self) -> String {
        let name = self.name();
        match self.clock {
            ClockName::Utc => "the trace does not know UTC: add --clock-offset SECONDS, the seconds since 1970 at \
                               Oche's start"
                .into(),
            _ => format!(
                "the trace does not know the guest's clock {name}: add --ftrace FILE, the guest's own trace of that \
                 time (`trace-cmd record -C {name} -e iommu`, then `trace-cmd report`), or --clock-offset SECONDS"
            ),
        }
    }
}

/// `clock`, which stands at `start_ns` nanoseconds at its start.
fn shifted(clock: Clock, start_ns: i128) -> Clock {
    let ticks = start_ns * i128::from(clock.counter_hz.max(1)) / 1_000_000_000;
    // A start before tick 0 is its two's complement: see `Clock`.
    Clock { start_ticks: i128::from(clock.start_ticks).wrapping_sub(ticks) as u64, ..clock }
}

fn signed_seconds(nanoseconds: i128) -> String {
    let zero = Clock { counter_hz: 1_000_000_000, start_ticks: 0 };
    let sign = if nanoseconds < 0 { "-" } else { "" };
    format!("{sign}{}", seconds(zero, nanoseconds.unsigned_abs() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::made::Made;

    fn options(clock: ClockName, clock_offset: Option<f64>) -> ClockOptions {
        ClockOptions { clock, clock_offset, ..ClockOptions::default() }
    }

    #[test]
    fn a_clock_is_ahead_behind_or_since_1970() {
        let clock = Clock { counter_hz: 24_000_000, start_ticks: 48_000_000 };
        for (start_ns, expected) in [
            (0, "1.000000000"),
            (2_500_000_000, "3.500000000"),
            (-500_000_000, "0.500000000"),
            (1_764_556_875_250_000_000, "1764556876.250000000"),
        ] {
            assert_eq!(seconds(shifted(clock, start_ns), 72_000_000), expected);
        }
        assert_eq!(signed_seconds(-1_500_000_000), "-1.500000000");
    }

    #[test]
    fn every_view_is_in_the_clock_that_is_shown() {
        let made = Made::new();
        let mut trace = made.open();
        options(ClockName::Boot, Some(10.0)).apply(&mut trace).unwrap();
        assert_eq!(trace.sessions[0].description.clock().nanoseconds(1), 10_000_001_000);
        assert_eq!(trace.sessions[0].description.own_clock().nanoseconds(1), 1_000);
    }

    #[test]
    fn an_unknown_clock_is_refused_with_the_remedy() {
        let mut trace = Made::new().open();
        let error =
            |clock, trace: &mut _| options(clock, None).apply(trace).unwrap_err().to_string();
        assert!(error(ClockName::Boot, &mut trace).contains("trace-cmd record -C boot -e iommu"));
        assert!(error(ClockName::Utc, &mut trace).contains("--clock-offset SECONDS"));
        assert!(options(ClockName::Oche, None).apply(&mut trace).is_ok());
        assert!(options(ClockName::Oche, Some(1.0)).apply(&mut trace).is_err());
        assert!(options(ClockName::Boot, Some(f64::NAN)).apply(&mut trace).is_err());
    }
}
