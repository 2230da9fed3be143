//! The question, and what everything that answers it looks at.

use oche_trace::record::Stamp;
use oche_trace::text::Clock;
use oche_types::addr::IovaPage;

use super::super::description::TraceDescription;
use super::super::filter::Whom;
use super::super::symbols::Symbols;

/// Mappings and other happenings that are listed.
pub(super) const LISTED: usize = 8;

/// What to explain.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// The address.
    pub iova: u64,
    /// The device or stream.
    pub whom: Whom,
    /// The moment, in nanoseconds since Oche's start; that of the last fault there, or the end,
    /// where there is none.
    pub at_ns: Option<u64>,
    /// Only what happened from this time on is listed, in nanoseconds since Oche's start.
    pub from_ns: Option<u64>,
    /// Only what happened up to this time is listed.
    pub until_ns: Option<u64>,
}

/// A question about one page, with the trace that is asked.
pub(super) struct Asker<'a> {
    pub(super) description: &'a TraceDescription,
    pub(super) clock: Clock,
    pub(super) symbols: &'a Symbols,
    pub(super) question: &'a Question,
    pub(super) page: IovaPage,
}

impl Asker<'_> {
    /// The guest code and the CPU of an event.
    pub(super) fn by(&self, stamp: &Stamp) -> String {
        format!("by {} on CPU {}", self.symbols.name(stamp.program_counter), stamp.cpu)
    }
}

/// The tick of a moment in nanoseconds since the start: the first that shows as that or later.
pub(super) fn ticks_at(clock: Clock, nanoseconds: u64) -> u64 {
    let ticks = u128::from(nanoseconds) * u128::from(clock.counter_hz.max(1)) / 1_000_000_000;
    let ticks = u64::try_from(ticks).unwrap_or(u64::MAX).saturating_add(clock.start_ticks);
    // Division rounds down on both sides: the tick that shows as this nanosecond may be the next.
    if clock.nanoseconds(ticks.saturating_add(1)) <= nanoseconds {
        ticks.saturating_add(1)
    } else {
        ticks
    }
}
