//! One DART: its hardware, and what the driver knows of it.

use oche_types::addr::HostGranule;
use oche_types::dart::stream::{DartId, STREAMS, StreamId};

/// What a DART's registers and TLB hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contents {
    /// The driver's state, and nothing older.
    Current,
    /// Nothing: the DART had no power.
    Nothing,
    /// Possibly stale state: a command was not confirmed.
    Older,
}

/// What the driver knows of one DART.
#[derive(Clone, Copy, Debug)]
pub(super) struct DartState {
    /// Oche programs it, for good.
    pub(super) is_taken_over: bool,
    /// The tables of each stream; `None` for a blocked one.
    pub(super) roots: [Option<HostGranule>; STREAMS],
    /// It did not complete its last command in time.
    pub(super) is_stuck: bool,
    pub(super) contents: Contents,
    /// Its domains were in transition for too long when they were last examined.
    pub(super) is_unreachable: bool,
    /// It was once found to translate or bypass where it should have forgotten everything.
    pub(super) has_remembered: bool,
}

impl DartState {
    pub(super) const NEW: Self = Self {
        is_taken_over: false,
        roots: [None; STREAMS],
        is_stuck: false,
        contents: Contents::Older,
        is_unreachable: false,
        has_remembered: false,
    };

    /// Whether devices behind it may use anything older than they must.
    pub(super) fn may_use_older(&self) -> bool {
        self.is_taken_over && self.contents == Contents::Older
    }

    pub(super) fn root(&self, stream: StreamId) -> Option<HostGranule> {
        self.roots[stream.index()]
    }
}

/// One DART, borrowed from the driver for an operation on it.
#[derive(Debug)]
pub(super) struct DartHandle<'a, H> {
    pub(super) hardware: &'a mut H,
    pub(super) id: DartId,
    pub(super) state: &'a mut DartState,
}
