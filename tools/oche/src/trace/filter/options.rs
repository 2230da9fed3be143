//! The options of the command line that choose what a view shows.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use anyhow::{Result, bail};
use clap::Args;
use oche_types::dart::stream::STREAMS;
use oche_types::event::Kind;

use super::super::lifetime::{PLACES, StreamPlace};
use super::super::reader::{ByteSource, TraceFile};
use super::super::symbols::Symbols;
use super::super::words::{parse_address, parse_seconds, seconds};
use super::{CallerChoice, EventFilter, KindSet, StreamChoice, Whom};

/// The devices that are chosen.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "What is shown")]
pub struct WhomOptions {
    /// Show only devices whose name, or whose driver's, contains this
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Show only this DART, by number
    #[arg(long, value_name = "NUMBER")]
    dart: Option<u8>,
    /// Show only these streams, by number: 1 of any DART, 0:1 of DART 0, 1:* all of DART 1;
    /// separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_stream)]
    stream: Vec<StreamChoice>,
}

/// The time that is chosen.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "What is shown")]
pub struct TimeOptions {
    /// Show only what happened from this time on, in seconds since Oche's start or of
    /// --clock
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    from: Option<u64>,
    /// Show only what happened up to this time, in seconds since Oche's start or of --clock
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    to: Option<u64>,
}

/// The addresses that are chosen.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "What is shown")]
pub struct IovaOptions {
    /// Show only what touches this IOVA, or this range with both ends included
    #[arg(long, value_name = "A[-B]", value_parser = parse_range)]
    iova: Option<RangeInclusive<u64>>,
}

/// What is chosen in every view but `why` and `live`, which take a part of it.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "What is shown")]
pub struct ChoiceOptions {
    #[command(flatten)]
    whom: WhomOptions,
    #[command(flatten)]
    iova: IovaOptions,
    #[command(flatten)]
    time: TimeOptions,
    /// Show only this CPU, by number
    #[arg(long, value_name = "NUMBER")]
    cpu: Option<u8>,
    /// Show only what the guest's functions did whose name contains this (by the trace's names,
    /// --symbols or --vmlinux), or the instruction at this 0x... address
    #[arg(long, value_name = "NAME", value_parser = parse_caller)]
    caller: Option<CallerChoice>,
}

/// What is chosen where single events are shown.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "What is shown")]
pub struct EventOptions {
    #[command(flatten)]
    choice: ChoiceOptions,
    /// Show only these kinds of events, by name, separated by commas (map,unmap,io_page_fault,...);
    /// +KIND and -KIND add to what is shown anyway, and take from it
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        allow_hyphen_values = true,
        value_parser = parse_kind
    )]
    kind: Vec<KindTerm>,
    /// Show every kind of event, trapped accesses too
    #[arg(long, conflicts_with = "kind")]
    all: bool,
}

/// A kind of `--kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KindTerm {
    Only(Kind),
    With(Kind),
    Without(Kind),
}

impl WhomOptions {
    /// The devices, each of which `trace` must know.
    ///
    /// # Errors
    ///
    /// The trace has no such device, DART or stream; what it has.
    pub fn whom<S: ByteSource>(&self, trace: &TraceFile<S>) -> Result<Whom> {
        let whom = self.unchecked();
        let sessions = || trace.sessions.iter().map(|session| &session.description);
        if let Some(wanted) = &whom.device {
            let places = || (0..PLACES).filter_map(StreamPlace::from_index);
            let is_name =
                |of: &super::TraceDescription| places().any(|place| of.is_called(place, wanted));
            if !sessions().any(is_name) {
                let is_named = |of: &super::TraceDescription, place: &StreamPlace| {
                    of.names().any(|name| name == of.name_of(*place))
                };
                let names: BTreeSet<String> = sessions()
                    .flat_map(|of| places().filter(|at| is_named(of, at)).map(|at| of.label_of(at)))
                    .collect();
                let names: Vec<String> = names.into_iter().collect();
                bail!("no device's name contains {wanted}; the trace names {}", names.join(", "));
            }
        }
        let darts = whom.streams.iter().filter_map(|choice| choice.dart).chain(whom.dart);
        for wanted in darts {
            let mut known = sessions().flat_map(|of| {
                of.darts.iter().map(|dart| dart.dart).chain(of.devices.iter().map(|of| of.dart))
            });
            if !known.any(|dart| dart.index() == usize::from(wanted)) {
                bail!("there is no DART {wanted} in the trace");
            }
        }
        let is_stream = |stream: &u8| usize::from(*stream) >= STREAMS;
        let mut streams = whom.streams.iter().filter_map(|choice| choice.stream);
        if let Some(wanted) = streams.find(is_stream) {
            bail!("there is no stream {wanted}: a DART has {STREAMS}, from 0 on");
        }
        Ok(whom)
    }

    /// The devices, whatever the trace knows.
    pub fn unchecked(&self) -> Whom {
        Whom { dart: self.dart, streams: self.stream.clone(), device: self.device.clone() }
    }
}

impl TimeOptions {
    /// The first and the last nanosecond since Oche's start, where they are given.
    ///
    /// # Errors
    ///
    /// No event of `trace` is in that time; when there are some.
    pub fn range<S: ByteSource>(&self, trace: &TraceFile<S>) -> Result<(Option<u64>, Option<u64>)> {
        let zero = oche_trace::text::Clock { counter_hz: 1_000_000_000, start_ticks: 0 };
        if let (Some(from), Some(to)) = (self.from, self.to)
            && from > to
        {
            bail!("--from {} is after --to {}", seconds(zero, from), seconds(zero, to));
        }
        for (option, time) in [("--from", self.from), ("--to", self.to)] {
            let Some(time) = time else { continue };
            let is_outside = |(first, last): (u64, u64)| match option {
                "--from" => time > last,
                _ => time < first,
            };
            refuse_outside(trace, 0..trace.sessions.len(), option, time, is_outside)?;
        }
        Ok((self.from, self.to))
    }
}

/// Refuses the moment `time` of `option`, in nanoseconds, unless the boot `session` of `trace` has
/// events before or at it and after or at it.
///
/// # Errors
///
/// It is outside of the trace; when the trace has events.
pub fn refuse_moment<S: ByteSource>(
    trace: &TraceFile<S>,
    session: usize,
    option: &str,
    time: u64,
) -> Result<()> {
    let is_outside = |(first, last)| time < first || time > last;
    refuse_outside(trace, session..session + 1, option, time, is_outside)
}

fn refuse_outside<S: ByteSource>(
    trace: &TraceFile<S>,
    sessions: std::ops::Range<usize>,
    option: &str,
    time: u64,
    is_outside: impl Fn((u64, u64)) -> bool,
) -> Result<()> {
    let zero = oche_trace::text::Clock { counter_hz: 1_000_000_000, start_ticks: 0 };
    let spans: Vec<(u64, u64)> = sessions.filter_map(|session| trace.span_ns(session)).collect();
    if spans.is_empty() || spans.iter().any(|span| !is_outside(*span)) {
        return Ok(());
    }
    let spans: Vec<String> = spans
        .into_iter()
        .map(|(first, last)| format!("{} to {} s", seconds(zero, first), seconds(zero, last)))
        .collect();
    bail!(
        "{option} {} is outside of the trace, which has events from {}",
        seconds(zero, time),
        spans.join(", and of its next boot from ")
    )
}

impl IovaOptions {
    /// The addresses, in bytes.
    pub fn range(&self) -> Option<RangeInclusive<u64>> {
        self.iova.clone()
    }
}

impl ChoiceOptions {
    /// The filter, for `trace`, which must know what is asked for.
    ///
    /// # Errors
    ///
    /// The trace has no such device, DART, stream, CPU or time, or there are no names for a caller.
    pub fn filter<S: ByteSource>(
        &self,
        trace: &TraceFile<S>,
        symbols: &Symbols,
    ) -> Result<EventFilter> {
        if let Some(wanted) = self.cpu
            && trace.sessions.iter().all(|session| session.cpus() <= usize::from(wanted))
        {
            bail!("no event in the trace is of CPU {wanted}");
        }
        let (from_ns, until_ns) = self.time.range(trace)?;
        let whom = self.whom.whom(trace)?;
        Ok(EventFilter { whom, from_ns, until_ns, ..self.unchecked(symbols)? })
    }

    /// The filter, for a trace that is not known yet.
    ///
    /// # Errors
    ///
    /// There are no names for a caller.
    pub fn unchecked(&self, symbols: &Symbols) -> Result<EventFilter> {
        if let Some(CallerChoice::Name(name)) = &self.caller {
            if symbols.is_empty() {
                bail!(
                    "--caller {name} needs the names of the guest's code: add --symbols FILE or --vmlinux ELF, \
                     or give an address with 0x"
                );
            }
            if symbols.ranges(|function| function.contains(name.as_str())).is_empty() {
                bail!("no function of the symbols has {name} in its name");
            }
        }
        Ok(EventFilter {
            whom: self.whom.unchecked(),
            iova: self.iova.range(),
            cpu: self.cpu,
            from_ns: self.time.from,
            until_ns: self.time.to,
            caller: self.caller.clone(),
            ..EventFilter::default()
        })
    }
}

impl EventOptions {
    /// The filter, for `trace`; without `--kind` and `--all` every kind but `left_out` is shown.
    ///
    /// # Errors
    ///
    /// As [`ChoiceOptions::filter`].
    pub fn filter<S: ByteSource>(
        &self,
        trace: &TraceFile<S>,
        symbols: &Symbols,
        left_out: Option<Kind>,
    ) -> Result<EventFilter> {
        Ok(self.with_kinds(left_out, self.choice.filter(trace, symbols)?))
    }

    /// The same, for a trace that is not known yet.
    ///
    /// # Errors
    ///
    /// There are no names for a caller.
    pub fn unchecked(&self, symbols: &Symbols, left_out: Option<Kind>) -> Result<EventFilter> {
        Ok(self.with_kinds(left_out, self.choice.unchecked(symbols)?))
    }

    fn with_kinds(&self, left_out: Option<Kind>, filter: EventFilter) -> EventFilter {
        let (kinds, is_chosen) = self.kinds(left_out);
        let leaves_accesses_out =
            !is_chosen && left_out == Some(Kind::Access) && !kinds.has(Some(Kind::Access));
        EventFilter { kinds, leaves_accesses_out, ..filter }
    }

    /// The kinds, and whether the user listed them.
    fn kinds(&self, left_out: Option<Kind>) -> (KindSet, bool) {
        if self.all {
            return (KindSet::ALL, true);
        }
        let is_list = self.kind.iter().any(|term| matches!(term, KindTerm::Only(_)));
        let base = match left_out {
            _ if is_list => KindSet::NONE,
            Some(kind) => KindSet::ALL.without(kind),
            None => KindSet::ALL,
        };
        let kinds = self.kind.iter().fold(base, |kinds, term| match *term {
            KindTerm::Only(kind) | KindTerm::With(kind) => kinds.with(kind),
            KindTerm::Without(kind) => kinds.without(kind),
        });
        let names_access = |term: &KindTerm| *term == KindTerm::Without(Kind::Access);
        (kinds, is_list || self.kind.iter().any(names_access))
    }
}

fn parse_kind(text: &str) -> Result<KindTerm, String> {
    let (term, name): (fn(Kind) -> KindTerm, &str) = match text.split_at_checked(1) {
        Some(("+", name)) => (KindTerm::With, name),
        Some(("-", name)) => (KindTerm::Without, name),
        _ => (KindTerm::Only, text),
    };
    Kind::ALL.into_iter().find(|kind| kind.name() == name).map(term).ok_or_else(|| {
        let names: Vec<&str> = Kind::ALL.into_iter().map(Kind::name).collect();
        format!("there is no such kind of event; there are {}", names.join(", "))
    })
}

fn parse_stream(text: &str) -> Result<StreamChoice, String> {
    let wrong = || "a stream's number such as 1, or DART:STREAM such as 0:1 or 1:*".to_owned();
    let number = |text: &str| match text {
        "*" => Ok(None),
        _ => text.parse().map(Some).map_err(|_| wrong()),
    };
    match text.split_once(':') {
        Some((dart, stream)) => Ok(StreamChoice { dart: number(dart)?, stream: number(stream)? }),
        None if text == "*" => Err(wrong()),
        None => Ok(StreamChoice { dart: None, stream: number(text)? }),
    }
}

fn parse_range(text: &str) -> Result<RangeInclusive<u64>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (parse_address(first)?, parse_address(last)?);
    if first > last {
        return Err(format!("the range ends before it begins: {last:#x} is below {first:#x}"));
    }
    Ok(first..=last)
}

fn parse_caller(text: &str) -> Result<CallerChoice, String> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16)
            .map(CallerChoice::Address)
            .map_err(|_| "an address in hexadecimal, such as 0xffff800008123450".into()),
        None if text.is_empty() => Err("a part of a function's name, or an address".into()),
        None => Ok(CallerChoice::Name(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        events: EventOptions,
    }

    fn kinds(words: &[&str]) -> (KindSet, bool) {
        let line = Line::try_parse_from([&["oche"], words].concat()).unwrap();
        line.events.kinds(Some(Kind::Access))
    }

    #[test]
    fn kinds_are_listed_or_added_to_what_is_shown_anyway() {
        let usual = KindSet::ALL.without(Kind::Access);
        assert_eq!(kinds(&[]), (usual, false));
        assert_eq!(kinds(&["--all"]), (KindSet::ALL, true));
        assert_eq!(kinds(&["--kind", "+access"]), (KindSet::ALL, false));
        assert_eq!(kinds(&["--kind", "-register"]), (usual.without(Kind::Register), false));
        let both = KindSet::NONE.with(Kind::Map).with(Kind::Unmap);
        assert_eq!(kinds(&["--kind", "map,unmap"]), (both, true));
        assert_eq!(kinds(&["--kind", "map,+unmap"]), (both, true));
        assert!(Line::try_parse_from(["oche", "--kind", "mapp"]).is_err());
        assert!(Line::try_parse_from(["oche", "--all", "--kind", "map"]).is_err());
    }

    #[test]
    fn streams_and_ranges_are_read_as_the_recording_filter_reads_them() {
        let choice = |dart, stream| Ok(StreamChoice { dart, stream });
        assert_eq!(parse_stream("1"), choice(None, Some(1)));
        assert_eq!(parse_stream("0:1"), choice(Some(0), Some(1)));
        assert_eq!(parse_stream("1:*"), choice(Some(1), None));
        for wrong in ["", "*", "a", "0:", "0:1:2", "256"] {
            assert!(parse_stream(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_range("0x1000-0x1fff"), Ok(0x1000..=0x1fff));
        assert_eq!(parse_range("fffc3040"), Ok(0xfffc_3040..=0xfffc_3040));
        for wrong in ["", "-", "2000-1000", "x", "1-"] {
            assert!(parse_range(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_caller("0x10"), Ok(CallerChoice::Address(0x10)));
        assert_eq!(parse_caller("nvme"), Ok(CallerChoice::Name("nvme".into())));
        assert!(parse_caller("0xnvme").is_err() && parse_caller("").is_err());
    }
}
