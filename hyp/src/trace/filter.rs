//! Which events are recorded: by kind, by DART and stream, by IOVA.
//!
//! A filter speaks only of what an event has. One that names no DART passes any choice of streams, and one that
//! names no IOVA any range: who wants neither leaves its kind out.

use crate::addr::{FRAME_BYTES, PAGE_BYTES};
use crate::dart::stream::{DartId, MAX_DARTS, StreamId, StreamSet};
use crate::trace::record::{Kind, Record};

/// A choice of streams and of IOVAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Per DART, the streams that are chosen.
    pub streams: [StreamSet; MAX_DARTS],
    /// The lowest IOVA, in bytes.
    pub first: u64,
    /// The highest IOVA, in bytes, included.
    pub last: u64,
}

impl Selection {
    /// Every stream and every IOVA.
    pub const ALL: Self = Self { streams: [StreamSet(u16::MAX); MAX_DARTS], first: 0, last: u64::MAX };

    /// Nothing.
    pub const NONE: Self = Self { streams: [StreamSet(0); MAX_DARTS], first: 0, last: 0 };

    /// Whether any stream is chosen.
    pub fn has_streams(&self) -> bool {
        self.streams.iter().any(|set| set.0 != 0)
    }

    /// Whether `stream` of `dart` is chosen.
    pub fn has_stream(&self, dart: DartId, stream: StreamId) -> bool {
        self.streams.get(dart.index()).is_some_and(|set| set.contains(stream))
    }

    /// Whether any of the `bytes` bytes from `iova` on is chosen.
    pub fn overlaps(&self, iova: u64, bytes: u64) -> bool {
        iova <= self.last && iova.saturating_add(bytes.saturating_sub(1)) >= self.first
    }

    fn has_any_stream(&self, dart: DartId, streams: StreamSet) -> bool {
        self.streams.get(dart.index()).is_some_and(|set| set.0 & streams.0 != 0)
    }
}

/// What is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Bit k: events of kind k are recorded.
    kinds: u64,
    selection: Selection,
    is_everything: bool,
}

impl Default for Filter {
    fn default() -> Self {
        Self::new(u64::MAX, Selection::ALL)
    }
}

impl Filter {
    /// Records the kinds whose bits are set in `kinds`, where `selection` chooses them. Kinds from 64 on, which no
    /// version knows, go with bit 0. That a filter has changed is always recorded.
    pub fn new(kinds: u64, selection: Selection) -> Self {
        Self { kinds, selection, is_everything: kinds == u64::MAX && selection == Selection::ALL }
    }

    /// Whether every event is recorded.
    pub fn is_everything(&self) -> bool {
        self.is_everything
    }

    /// Bit k: events of kind k are recorded.
    pub fn kinds(&self) -> u64 {
        self.kinds
    }

    /// Where they are recorded.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Whether `record` is to be recorded.
    #[inline]
    pub fn admits(&self, record: &Record) -> bool {
        self.is_everything || self.chooses(record)
    }

    fn chooses(&self, record: &Record) -> bool {
        let number = record.kind_number();
        let bit = if number < 64 { 1 << number } else { 1 };
        if record.kind() == Some(Kind::Filter) {
            return true;
        }
        if self.kinds & bit == 0 {
            return false;
        }
        let is_chosen_stream = match (record.dart(), record.stream(), record.kind()) {
            (Some(dart), Some(stream), _) => self.selection.has_stream(dart, stream),
            (Some(dart), None, Some(Kind::Flush)) => {
                self.selection.has_any_stream(dart, StreamSet(record.payload() as u16))
            }
            (Some(dart), None, _) => self.selection.has_any_stream(dart, StreamSet(u16::MAX)),
            (None, ..) => true,
        };
        is_chosen_stream && iova_of(record).is_none_or(|(iova, bytes)| self.selection.overlaps(iova, bytes))
    }
}

/// The IOVAs that `record` is about, in bytes: the first one and how many; `None` where it is about none.
pub fn iova_of(record: &Record) -> Option<(u64, u64)> {
    let high = record.payload() >> 32;
    let page = (high * PAGE_BYTES as u64, PAGE_BYTES as u64);
    match record.kind()? {
        Kind::Map | Kind::Unmap | Kind::Permission | Kind::Refused | Kind::RedZone | Kind::Snapshot => {
            Some(page)
        }
        Kind::LiveMove => Some((page.0, FRAME_BYTES as u64)),
        Kind::Fault => Some((record.payload(), 1)),
        Kind::Watch => Some((high, u64::from(record.detail() >> 1 & 0x7f).max(1))),
        Kind::Register
        | Kind::Flush
        | Kind::FlushDone
        | Kind::Moved
        | Kind::Fetched
        | Kind::Merged
        | Kind::Table
        | Kind::Attach
        | Kind::InvalidateTimedOut
        | Kind::Access
        | Kind::Filter
        | Kind::Callers
        | Kind::Data => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Gfn, IovaPage};
    use crate::trace::record::Stamp;
    use crate::trace::{Event, Place};

    fn place(dart: usize, stream: usize, iova: u32) -> Place {
        let dart = DartId::new(dart).expect("a DART");
        Place { dart, stream: StreamId::new(stream).expect("a stream"), iova: IovaPage(iova) }
    }

    fn record(event: Event) -> Record {
        Record::new(Stamp::default(), &event)
    }

    fn unmap(dart: usize, stream: usize, iova: u32) -> Record {
        record(Event::Unmap { at: place(dart, stream, iova), page: Gfn(1) })
    }

    #[test]
    fn a_filter_by_stream_leaves_the_other_streams_out_and_what_names_none_in() {
        let mut selection = Selection { streams: [StreamSet(0); MAX_DARTS], ..Selection::ALL };
        selection.streams[1] = StreamSet(1 << 4);
        let filter = Filter::new(u64::MAX, selection);
        assert!(filter.admits(&unmap(1, 4, 9)));
        assert!(!filter.admits(&unmap(1, 3, 9)) && !filter.admits(&unmap(0, 4, 9)));
        let flush = |dart, streams| {
            record(Event::Flush { dart: place(dart, 0, 0).dart, streams: StreamSet(streams) })
        };
        assert!(filter.admits(&flush(1, 0x10)) && filter.admits(&flush(1, 0x11)));
        assert!(!filter.admits(&flush(1, 0x0f)) && !filter.admits(&flush(0, 0x10)));
        let register = |dart| {
            record(Event::Register { dart: place(dart, 0, 0).dart, offset: 0, is_write: true, value: 0 })
        };
        assert!(filter.admits(&register(1)) && !filter.admits(&register(0)));
        assert!(filter.admits(&record(Event::Moved { page: Gfn(1), to: Gfn(1).home() })));
    }

    #[test]
    fn a_range_counts_every_page_that_it_touches_and_no_other() {
        let filter = Filter::new(u64::MAX, Selection { first: 0x5800, last: 0x7000, ..Selection::ALL });
        let admitted = [4, 5, 6, 7, 8].map(|page| filter.admits(&unmap(0, 0, page)));
        assert_eq!(admitted, [false, true, true, true, false]);
        let fault = |iova| {
            let Place { dart, stream, .. } = place(0, 0, 0);
            record(Event::Fault { dart, stream, iova, code: 1, is_write: false, is_hidden: false })
        };
        assert!(filter.admits(&fault(0x5800)) && filter.admits(&fault(0x7000)));
        assert!(!filter.admits(&fault(0x57ff)) && !filter.admits(&fault(0x7001)));
    }

    #[test]
    fn kinds_are_chosen_by_number_and_a_change_of_the_filter_always_shows() {
        let filter = Filter::new(1 << Kind::Unmap.number(), Selection::ALL);
        assert!(filter.admits(&unmap(0, 0, 0)) && !filter.is_everything());
        assert!(!filter.admits(&record(Event::Access { address: 0, is_write: true })));
        assert!(filter.admits(&record(Event::Filter { generation: 1, is_whole: false })));
        let unknown = Record([0, 200 << 32, 0, 0]);
        assert!(!filter.admits(&unknown) && Filter::default().admits(&unknown));
        assert!(Filter::default().is_everything());
    }
}
