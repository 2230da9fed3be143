//! Selections of streams and IOVAs: for what is recorded, snapshotted or watched.

use crate::dart::stream::{DartId, MAX_DARTS, StreamId, StreamSet};

/// Most watches at one time.
pub const MAX_WATCHES: usize = 4;
/// Most bytes of IOVA space that one watch covers. The rest of a larger range is not watched.
pub const MAX_WATCHED_BYTES: u64 = 4 << 20;

/// A selection of streams and of IOVAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The selected streams of each DART.
    pub streams: [StreamSet; MAX_DARTS],
    /// The lowest IOVA, in bytes.
    pub first: u64,
    /// The highest IOVA, in bytes, included.
    pub last: u64,
}

impl Selection {
    /// Every stream and every IOVA.
    pub const ALL: Self =
        Self { streams: [StreamSet(u16::MAX); MAX_DARTS], first: 0, last: u64::MAX };

    /// No stream.
    pub const NONE: Self = Self { streams: [StreamSet(0); MAX_DARTS], first: 0, last: 0 };

    /// Whether any stream is selected.
    pub fn has_streams(&self) -> bool {
        self.streams.iter().any(|set| set.0 != 0)
    }

    /// Whether `stream` of `dart` is selected.
    pub fn has_stream(&self, dart: DartId, stream: StreamId) -> bool {
        self.streams.get(dart.index()).is_some_and(|set| set.contains(stream))
    }

    /// Whether any of the `bytes` bytes from `iova` on is selected.
    pub fn overlaps(&self, iova: u64, bytes: u64) -> bool {
        iova <= self.last && iova.saturating_add(bytes.saturating_sub(1)) >= self.first
    }

    /// Whether any of `streams` of `dart` is selected.
    pub fn has_any_stream(&self, dart: DartId, streams: StreamSet) -> bool {
        self.streams.get(dart.index()).is_some_and(|set| set.0 & streams.0 != 0)
    }
}
