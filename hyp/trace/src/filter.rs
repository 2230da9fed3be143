//! Which events are recorded: by kind, by DART and stream, by IOVA.
//!
//! A filter speaks only of what an event has. One that names no DART passes any choice of streams,
//! and one that names no IOVA any range: who wants neither leaves its kind out.

use oche_types::dart::stream::{DartId, StreamId, StreamSet};
use oche_types::event::{Event, Kind, Place};
use oche_types::events;
use oche_types::selection::Selection;

/// What is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Bit k: events of kind k are recorded.
    kinds: u64,
    selection: Selection,
    is_everything: bool,
}

/// The kinds of what a guest's flush does: bit k for kind k.
const IN_A_FLUSH: u64 = {
    use Kind::{
        Attach, CallChain, Flush, FlushDone, LiveMove, Map, Merged, Moved, Permission, RedZone,
        Refused, Snapshot, Table, Unmap,
    };
    let kinds = [
        Flush, FlushDone, Map, Unmap, Refused, Moved, LiveMove, Merged, RedZone, Table, Attach,
        Snapshot, CallChain, Permission,
    ];
    let (mut bits, mut index) = (0, 0);
    while index < kinds.len() {
        bits |= 1 << kinds[index] as u8;
        index += 1;
    }
    bits
};

impl Default for Filter {
    fn default() -> Self {
        Self::new(u64::MAX, Selection::ALL)
    }
}

impl Filter {
    /// Records the kinds whose bits are set in `kinds`, where `selection` chooses them. That a
    /// filter has changed is always recorded.
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

    /// Whether `event` is to be recorded.
    #[inline]
    pub fn admits(&self, event: &Event) -> bool {
        self.is_everything || self.chooses(event)
    }

    /// Whether the callers of `flush` are to be recorded: if anything may be that happens in it.
    pub fn admits_callers(&self, flush: &Event) -> bool {
        let any_kind = Self { kinds: u64::MAX, ..*self };
        self.kinds & IN_A_FLUSH != 0 && any_kind.admits(flush)
    }

    fn chooses(&self, event: &Event) -> bool {
        if matches!(event, Event::Filter { .. }) {
            return true;
        }
        let scope = scope_of(event);
        let is_chosen_stream = match (scope.dart, scope.streams) {
            (Some(dart), streams) => {
                self.selection.has_any_stream(dart, streams.unwrap_or(StreamSet(u16::MAX)))
            }
            (None, _) => true,
        };
        self.kinds >> Kind::of(event).number() & 1 != 0
            && is_chosen_stream
            && iova_of(event).is_none_or(|(iova, bytes)| self.selection.overlaps(iova, bytes))
    }
}

/// The streams that an event is about.
#[derive(Default)]
struct Scope {
    dart: Option<DartId>,
    /// `None`: all of the DART's.
    streams: Option<StreamSet>,
}

/// Takes what it needs from the fields in their places.
impl Scope {
    fn dart(self, dart: DartId) -> Self {
        Self { dart: Some(dart), ..self }
    }

    fn stream(self, stream: StreamId) -> Self {
        let mut streams = StreamSet(0);
        streams.insert(stream);
        Self { streams: Some(streams), ..self }
    }

    fn streams(self, streams: StreamSet, _: u32, _: u32) -> Self {
        Self { streams: Some(streams), ..self }
    }

    fn at(self, at: Place, _: u32, _: u32) -> Self {
        self.dart(at.dart).stream(at.stream)
    }

    fn detail<T>(self, _: T, _: u32, _: u32) -> Self {
        self
    }

    fn payload<T>(self, _: T, _: u32, _: u32) -> Self {
        self
    }

    fn optional<T>(self, _: T, _: u32, _: u32, _: u32) -> Self {
        self
    }

    fn words<T>(self, _: T) -> Self {
        self
    }
}

/// Generates what a filter asks of an event.
macro_rules! questions {
    ($(
        $(#[$doc:meta])*
        $kind:ident = $number:literal, $name:literal {
            $($(#[$field_doc:meta])* $field:ident: $type:ty = $place:ident($($at:tt)*),)*
        }
        $(also $also:ident: $also_type:ty = $also_place:ident($($also_at:tt)*) from $value:expr;)?
        reach($($first:expr, $bytes:expr)?)
        text($($text:tt)*)
        counts($($counts:tt)*)
    )*) => {
        fn scope_of(event: &Event) -> Scope {
            match *event {
                $(Event::$kind { $($field),* } => Scope::default()$(.$place($field, $($at)*))*,)*
            }
        }

        /// The IOVAs that `event` is about, in bytes: the first one and how many; `None` where it
        /// is about none.
        pub fn iova_of(event: &Event) -> Option<(u64, u64)> {
            match *event {
                $(Event::$kind { $($field),* } => {
                    let _ = ($($field,)*);
                    None$(.or(Some(($first, $bytes))))?
                })*
            }
        }
    };
}

events!(questions);

#[cfg(test)]
mod tests {
    use super::*;
    use oche_types::addr::{Gfn, IovaPage};
    use oche_types::dart::stream::MAX_DARTS;

    fn place(dart: usize, stream: usize, iova: u32) -> Place {
        let dart = DartId::new(dart).expect("a DART");
        Place { dart, stream: StreamId::new(stream).expect("a stream"), iova: IovaPage(iova) }
    }

    fn unmap(dart: usize, stream: usize, iova: u32) -> Event {
        Event::Unmap { at: place(dart, stream, iova), page: Gfn(1) }
    }

    #[test]
    fn a_filter_by_stream_leaves_the_other_streams_out_and_what_names_none_in() {
        let mut selection = Selection { streams: [StreamSet(0); MAX_DARTS], ..Selection::ALL };
        selection.streams[1] = StreamSet(1 << 4);
        let filter = Filter::new(u64::MAX, selection);
        assert!(filter.admits(&unmap(1, 4, 9)));
        assert!(!filter.admits(&unmap(1, 3, 9)) && !filter.admits(&unmap(0, 4, 9)));
        let flush = |dart, streams| Event::Flush {
            dart: place(dart, 0, 0).dart,
            streams: StreamSet(streams),
        };
        assert!(filter.admits(&flush(1, 0x10)) && filter.admits(&flush(1, 0x11)));
        assert!(!filter.admits(&flush(1, 0x0f)) && !filter.admits(&flush(0, 0x10)));
        let register = |dart| Event::Register {
            dart: place(dart, 0, 0).dart,
            offset: 0,
            is_write: true,
            value: 0,
        };
        assert!(filter.admits(&register(1)) && !filter.admits(&register(0)));
        assert!(filter.admits(&Event::Moved { page: Gfn(1), to: Gfn(1).home() }));
    }

    #[test]
    fn a_range_counts_every_page_that_it_touches_and_no_other() {
        let filter =
            Filter::new(u64::MAX, Selection { first: 0x5800, last: 0x7000, ..Selection::ALL });
        let admitted = [4, 5, 6, 7, 8].map(|page| filter.admits(&unmap(0, 0, page)));
        assert_eq!(admitted, [false, true, true, true, false]);
        let fault = |iova| {
            let Place { dart, stream, .. } = place(0, 0, 0);
            Event::Fault { dart, stream, iova, code: 1, is_write: false, is_hidden: false }
        };
        assert!(filter.admits(&fault(0x5800)) && filter.admits(&fault(0x7000)));
        assert!(!filter.admits(&fault(0x57ff)) && !filter.admits(&fault(0x7001)));
    }

    #[test]
    fn kinds_are_chosen_by_number_and_a_change_of_the_filter_always_shows() {
        let filter = Filter::new(1 << Kind::Unmap.number(), Selection::ALL);
        assert!(filter.admits(&unmap(0, 0, 0)) && !filter.is_everything());
        assert!(!filter.admits(&Event::Access { address: 0, is_write: true }));
        assert!(filter.admits(&Event::Filter { generation: 1, is_whole: false }));
        assert!(Filter::default().is_everything());
    }
}
