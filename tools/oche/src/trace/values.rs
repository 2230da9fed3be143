//! Watched accesses, hits of red zones and callers together with their bytes, which follow in
//! records of their own.

use std::collections::{BTreeMap, VecDeque};

use oche_trace::record::Record;
use oche_trace::snapshot::bytes_behind;
use oche_types::event::{Event, Kind};

use super::reader::TraceItem;

/// Items of a trace, each watched access with the bytes of its value and without the records that
/// held them. Another item's bytes are none; so are those of an access whose value was lost.
#[derive(Debug)]
pub struct WithValues<I> {
    items: I,
    /// By CPU: an access whose value is still coming, so far, and the number of the record that
    /// goes on.
    open: BTreeMap<u8, (Record, Vec<u8>, u32)>,
    ready: VecDeque<(TraceItem, Vec<u8>)>,
}

impl<I: Iterator<Item = TraceItem>> WithValues<I> {
    /// The items of `items` so.
    pub fn new(items: I) -> Self {
        Self { items, open: BTreeMap::new(), ready: VecDeque::new() }
    }

    /// Joins `record` to what its CPU began, or begins something, or has it come next.
    fn join(&mut self, record: Record) {
        let cpu = record.cpu();
        if let Some((access, mut value, next)) = self.open.remove(&cpu) {
            let wanted = bytes_behind(&access).unwrap_or(0);
            match record.event() {
                Some(Event::Data { words }) if record.sequence() == next => {
                    value.extend(words.into_iter().flat_map(u64::to_le_bytes));
                    if value.len() < wanted {
                        self.open.insert(cpu, (access, value, next.wrapping_add(1)));
                    } else {
                        value.truncate(wanted);
                        self.ready.push_back((TraceItem::Record(access), value));
                    }
                    return;
                }
                // The rest was lost.
                _ => self.ready.push_back((TraceItem::Record(access), Vec::new())),
            }
        }
        if has_value(&record) && bytes_behind(&record).is_some() {
            self.open.insert(cpu, (record, Vec::new(), record.sequence().wrapping_add(1)));
        } else {
            self.ready.push_back((TraceItem::Record(record), Vec::new()));
        }
    }

    /// Lets go of accesses whose values will not come.
    fn close(&mut self) {
        let open = std::mem::take(&mut self.open);
        self.ready
            .extend(open.into_values().map(|(access, ..)| (TraceItem::Record(access), Vec::new())));
    }
}

impl WithValues<std::iter::Empty<TraceItem>> {
    /// Takes the next item of those that come one by one.
    pub fn push(&mut self, item: TraceItem) {
        match item {
            TraceItem::Record(record) => self.join(record),
            other => self.ready.push_back((other, Vec::new())),
        }
    }

    /// No more items come.
    pub fn finish(&mut self) {
        self.close();
    }

    /// The next item that is whole.
    pub fn pop(&mut self) -> Option<(TraceItem, Vec<u8>)> {
        self.ready.pop_front()
    }
}

impl<I: Iterator<Item = TraceItem>> Iterator for WithValues<I> {
    type Item = (TraceItem, Vec<u8>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            match self.items.next() {
                Some(TraceItem::Record(record)) if self.open.is_empty() && !has_value(&record) => {
                    return Some((TraceItem::Record(record), Vec::new()));
                }
                Some(TraceItem::Record(record)) => self.join(record),
                Some(item) => {
                    if matches!(item, TraceItem::Session(_)) {
                        self.close();
                    }
                    self.ready.push_back((item, Vec::new()));
                }
                None if self.open.is_empty() => return None,
                None => self.close(),
            }
        }
    }
}

/// Whether `record` is of a kind whose bytes are shown with it: a watched access, a red zone's hit,
/// or callers.
fn has_value(record: &Record) -> bool {
    matches!(record.kind(), Some(Kind::Watch | Kind::RedZone | Kind::Callers | Kind::CallChain))
}

/// A value as people read it: a number as wide as the access, and of more than eight bytes several,
/// that at the lowest address first.
pub fn number(value: &[u8]) -> String {
    let part = |bytes: &[u8]| {
        let digits: String = bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect();
        format!("0x{digits}")
    };
    value.chunks(8).map(part).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use oche_trace::record::Stamp;
    use oche_types::addr::{Gfn, IovaPage};
    use oche_types::dart::stream::{DartId, StreamId};
    use oche_types::event::{Place, WatchHow};

    fn record(cpu: u8, sequence: u32, event: &Event) -> TraceItem {
        TraceItem::Record(Record::new(Stamp { cpu, sequence, ..Stamp::default() }, event))
    }

    fn access(cpu: u8, sequence: u32, bytes: u8) -> TraceItem {
        let at = Place { dart: DartId::FIRST, stream: StreamId::FIRST, iova: IovaPage(7) };
        let (page, how) = (Gfn(3), WatchHow::Exact);
        record(cpu, sequence, &Event::Watch { at, offset: 8, page, bytes, is_write: true, how })
    }

    fn data(cpu: u8, sequence: u32, words: [u64; 2]) -> TraceItem {
        record(cpu, sequence, &Event::Data { words })
    }

    fn joined(items: Vec<TraceItem>) -> Vec<(Option<Kind>, String)> {
        let kind = |item: &TraceItem| match item {
            TraceItem::Record(record) => record.kind(),
            _ => None,
        };
        WithValues::new(items.into_iter())
            .map(|(item, value)| (kind(&item), number(&value)))
            .collect()
    }

    #[test]
    fn a_value_comes_with_its_access_whatever_other_cpus_do() {
        let items = vec![
            access(0, 5, 4),
            access(1, 9, 20),
            data(0, 6, [0x1122_3344, 0]),
            data(1, 10, [1, 2]),
            record(2, 0, &Event::Table { page: Gfn(1), is_unsync: true }),
            data(1, 11, [0xdd_ccbb_aaff, 0]),
        ];
        let watch = Some(Kind::Watch);
        assert_eq!(
            joined(items),
            [
                (watch, "0x11223344".to_owned()),
                (Some(Kind::Table), String::new()),
                (watch, "0x0000000000000001,0x0000000000000002,0xccbbaaff".to_owned()),
            ]
        );
    }

    #[test]
    fn an_access_whose_value_was_lost_is_shown_without_one() {
        let gap = TraceItem::Lost { cpu: 0, records: 1 };
        let items =
            vec![access(0, 5, 4), gap, data(0, 7, [1, 0]), access(0, 8, 0), access(0, 9, 8)];
        let kinds: Vec<Option<Kind>> =
            joined(items.clone()).into_iter().map(|(kind, _)| kind).collect();
        let (watch, data) = (Some(Kind::Watch), Some(Kind::Data));
        assert_eq!(kinds, [None, watch, data, watch, watch]);
        assert!(joined(items).iter().all(|(_, value)| value.is_empty()));
    }
}
