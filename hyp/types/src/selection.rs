//! Choices of streams and of IOVAs: what is recorded, what is taken a snapshot of, what is watched.

use crate::dart::stream::{DartId, MAX_DARTS, StreamId, StreamSet};

/// Watches at one time.
pub const MAX_WATCHES: usize = 4;
/// Bytes of IOVA space that one watch may cover: what lies beyond is not watched.
pub const MAX_WATCHED_BYTES: u64 = 4 << 20;

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
    pub const ALL: Self =
        Self { streams: [StreamSet(u16::MAX); MAX_DARTS], first: 0, last: u64::MAX };

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

    /// Whether any of `streams` of `dart` is chosen.
    pub fn has_any_stream(&self, dart: DartId, streams: StreamSet) -> bool {
        self.streams.get(dart.index()).is_some_and(|set| set.0 & streams.0 != 0)
    }
}
