//! The state of the 16 KiB IOMMUs: cached entries, and transfers under way.

use crate::access::Data;
use oche_engine::host::{DeviceFault, DomainId};
use oche_types::addr::{Gfn, Hfn, HostGranule};
use oche_types::dart::stream::{DartId, STREAMS, StreamId};
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, VecDeque};

/// A transfer under way.
pub struct Pending {
    /// Its number.
    pub id: u64,
    /// The guest page that it goes to, once that is known.
    pub page: Option<Gfn>,
    /// First byte in the page.
    pub offset: usize,
    /// How many bytes.
    pub length: usize,
    pub(crate) at: Hfn,
    pub(crate) stream: usize,
    /// For a write that has landed, whether loads need not see it yet.
    pub(crate) has_landed: bool,
    /// `None` for a read.
    pub(crate) data: Option<Data>,
}

impl Pending {
    /// DART and stream whose transfer it is.
    pub fn origin(&self) -> (usize, usize) {
        (self.stream / STREAMS, self.stream % STREAMS)
    }

    /// Whether it is a write.
    pub fn is_write(&self) -> bool {
        self.data.is_some()
    }
}

/// Entries that are cached, each with the number of invalidations that had begun.
pub(crate) type Cache = BTreeMap<u64, (u64, u32)>;

#[derive(Default)]
pub(crate) struct Stream {
    /// The domain that the stream is attached to.
    pub(crate) domain: Option<DomainId>,
    /// The first-level table of the stream.
    pub(crate) root: Option<HostGranule>,
    pub(crate) invalidations: u32,
    /// Whether nothing is used any more that the last request of the engine ended.
    pub(crate) has_let_go: bool,
    pub(crate) leaves: Cache,
    pub(crate) tables: Cache,
}

/// All the IOMMUs of the machine.
pub struct Hardware {
    pub(crate) streams: Vec<Stream>,
    pub(crate) next: u64,
    pub(crate) pending: Vec<Pending>,
    /// Reads that were answered, with their data.
    pub(crate) answered: Vec<(u64, Data)>,
    pub(crate) faults: VecDeque<(DartId, DeviceFault)>,
    /// What was in words of tables before stores that walks need not see yet, and barriers for all
    /// until these.
    pub(crate) hidden: FxHashMap<(Hfn, usize), u64>,
    pub(crate) hidden_at: u64,
}

impl Hardware {
    /// `darts` IOMMUs, every stream blocked.
    pub fn new(darts: usize) -> Self {
        let streams = (0..darts * STREAMS).map(|_| Stream::default()).collect();
        Self {
            streams,
            next: 0,
            pending: Vec::new(),
            answered: Vec::new(),
            faults: VecDeque::new(),
            hidden: FxHashMap::default(),
            hidden_at: 0,
        }
    }

    /// The engine stores into a word of a table, where `before` was, when there were `barriers` for
    /// all observers.
    pub(crate) fn note_store(&mut self, place: (Hfn, usize), before: u64, barriers: u64) {
        if self.hidden_at != barriers {
            self.hidden.clear();
            self.hidden_at = barriers;
        }
        self.hidden.entry(place).or_insert(before);
    }
}

pub(crate) fn number(dart: DartId, stream: StreamId) -> usize {
    dart.index() * STREAMS + stream.index()
}
