//! What was mapped, by device and caller, as folded stacks for flame graphs:
//! `device;outermost;...;innermost COUNT`.
//!
//! A stack has the callers of the flush where the trace has them else the code that
//! flushed.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::rc::Rc;

use oche_trace::call_chain::callers;
use oche_trace::record::Record;
use oche_types::addr::PAGE_BYTES;
use rustc_hash::FxHashMap;

use super::callers::Flushes;
use super::filter::{Chooser, EventFilter};
use super::lifetime::{Lifetimes, Mapping, MappingChange, StreamPlace};
use super::reader::{ByteSource, TraceFile, TraceItem};
use super::symbols::Symbols;
use super::values::WithValues;
use super::words::nanoseconds_between;

/// Stacks that are counted each by itself; later ones are counted together.
const MAX_STACKS: usize = 1 << 16;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FoldedBy {
    /// Bytes mapped, each time anew
    Bytes,
    /// Microseconds that pages were mapped, summed over the pages
    Lifetime,
}

/// A stack: the device, and return addresses, innermost first.
type Stack = (StreamPlace, Vec<u64>);

/// Writes the stacks of the mappings in `session` that `filter` chooses, in the order of their
/// names. What is still mapped at the end counts up to there.
///
/// # Errors
///
/// Those of `out`.
pub fn write_folded<S: ByteSource>(
    trace: &TraceFile<S>,
    session: usize,
    by: FoldedBy,
    filter: &EventFilter,
    symbols: &Symbols,
    out: &mut impl Write,
) -> io::Result<()> {
    let Some(of) = trace.sessions.get(session) else { return Ok(()) };
    let (description, clock) = (&of.description, of.description.clock());
    let mut chooser = Chooser::new(filter, description, symbols);
    let mut folding = Folding::default();
    let mut now = 0;
    let lasted = |mapping: &Mapping, until: u64| match by {
        FoldedBy::Bytes => 0,
        FoldedBy::Lifetime => nanoseconds_between(clock, mapping.since.time, until) / 1000,
    };
    for (item, value) in WithValues::new(trace.events_of(session)) {
        let record = match item {
            TraceItem::Record(record) => record,
            TraceItem::Lost { cpu, .. } | TraceItem::Unreadable { cpu, .. } => {
                folding.callers.lose(cpu);
                continue;
            }
            TraceItem::Session(_) => continue,
        };
        now = record.time().max(now);
        let is_chosen = chooser.admits(&record, &value);
        match folding.follow(&record, &value) {
            MappingChange::Mapped { mapping, .. } if is_chosen => {
                let bytes = if by == FoldedBy::Bytes { PAGE_BYTES as u64 } else { 0 };
                folding.begin(&mapping, bytes);
            }
            MappingChange::Unmapped { mapping: Some(mapping), .. } => {
                folding.end(&mapping, lasted(&mapping, record.time()));
            }
            _ => {}
        }
    }
    for mapping in folding.lifetimes.sorted() {
        folding.end(&mapping, lasted(&mapping, now));
    }
    let mut lines: BTreeMap<String, u64> = BTreeMap::new();
    for ((place, addresses), count) in folding.counts {
        let code = addresses.iter().rev().map(|address| symbols.name(*address));
        let frames: Vec<String> = [description.name_of(place)].into_iter().chain(code).collect();
        // The character between frames is none of a name.
        let frames: Vec<String> = frames.iter().map(|frame| frame.replace(';', "_")).collect();
        let sum = lines.entry(frames.join(";")).or_default();
        *sum = sum.saturating_add(count);
    }
    lines
        .iter()
        .filter(|(_, count)| **count > 0)
        .try_for_each(|(stack, count)| writeln!(out, "{stack} {count}"))
}

#[derive(Default)]
struct Folding {
    lifetimes: Lifetimes,
    counts: FxHashMap<Stack, u64>,
    /// By space, IOVA page and guest page: the stack that mapped it.
    mapped: FxHashMap<(u16, u32, u32), Stack>,
    /// The callers of each flush.
    callers: Flushes<Rc<[u64]>>,
    /// Those of the event that was followed last.
    current: Option<Rc<[u64]>>,
}

impl Folding {
    fn follow(&mut self, record: &Record, value: &[u8]) -> MappingChange {
        match callers(record, value) {
            Some(chain) if !chain.is_empty() => self.callers.begin(record, chain.into()),
            Some(_) => self.callers.lose(usize::from(record.cpu())),
            None => self.current = self.callers.of(record),
        }
        self.lifetimes.apply(record)
    }

    fn key(&self, mapping: &Mapping) -> (u16, u32, u32) {
        (self.lifetimes.space(mapping.owner), mapping.iova.0, mapping.page.0)
    }

    fn begin(&mut self, mapping: &Mapping, count: u64) {
        let own = || vec![mapping.since.program_counter];
        let chain = self.current.as_ref().map_or_else(own, |chain| chain.to_vec());
        let mut stack = (mapping.owner, chain);
        if self.counts.len() >= MAX_STACKS && !self.counts.contains_key(&stack) {
            stack.1.clear();
        }
        let sum = self.counts.entry(stack.clone()).or_default();
        *sum = sum.saturating_add(count);
        self.mapped.insert(self.key(mapping), stack);
    }

    fn end(&mut self, mapping: &Mapping, count: u64) {
        if let Some(stack) = self.mapped.remove(&self.key(mapping)) {
            let sum = self.counts.entry(stack).or_default();
            *sum = sum.saturating_add(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::made::Made;
    use oche_types::dart::entry::Permission;
    use oche_types::dart::stream::DartId;
    use oche_types::event::Event;

    fn folded(made: &Made, by: FoldedBy, filter: &EventFilter) -> String {
        let names = [(0x1000, "map_data"), (0x2000, "queue_rq")];
        let names = names.map(|(address, name)| (address, name.to_owned())).into();
        let mut out = Vec::new();
        write_folded(&made.open(), 0, by, filter, &Symbols::new(names, 0), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn bytes_and_lifetimes_go_to_the_callers_that_mapped() {
        let mut made = Made::new();
        let dart = DartId::FIRST;
        for page in 0..2 {
            made.event(Event::Callers { dart, frames: 2, first: 0x1010 });
            made.event(Event::Data { words: [0x2020, 0] });
            made.map(0, 1, 0x100 + page, page, Permission::READ_ONLY);
        }
        made.map(0, 2, 0x300, 9, Permission::READ_ONLY).wait(1000).unmap(0, 1, 0x100, 0);
        let all = EventFilter::default();
        let flusher = "0xffff800008000c74";
        let bytes = format!("e1000e;{flusher} 4096\nnvme;queue_rq+0x20;map_data+0x10 8192\n");
        assert_eq!(folded(&made, FoldedBy::Bytes, &all), bytes);
        // Mapped at 1060 and 1130 us; the first until 2230, the other to the end, 2240.
        let lasted = format!("e1000e;{flusher} 1060\nnvme;queue_rq+0x20;map_data+0x10 2280\n");
        assert_eq!(folded(&made, FoldedBy::Lifetime, &all), lasted);
        let late = EventFilter { from_ns: Some(1_150_000), ..EventFilter::default() };
        assert_eq!(folded(&made, FoldedBy::Bytes, &late), format!("e1000e;{flusher} 4096\n"));
    }
}
