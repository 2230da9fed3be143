//! Numbers of DARTs and streams, and sets of them.

/// Streams of one t8020-type DART. Source: Linux `apple-dart.c`, which prints `16 streams`.
pub const STREAMS: usize = 16;
/// Most DARTs that Oche emulates. The M1 has about 25. Source: Asahi documentation
/// `hw/soc/memmap.md`.
pub const MAX_DARTS: usize = 32;

/// Number of a DART of the machine, below [`MAX_DARTS`], in the platform's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DartId(u8);

impl DartId {
    /// The first DART.
    pub const FIRST: Self = Self(0);

    /// The DART with `index`, or `None` from [`MAX_DARTS`] on.
    pub fn new(index: usize) -> Option<Self> {
        if index < MAX_DARTS { Some(Self(index as u8)) } else { None }
    }

    /// The index, below [`MAX_DARTS`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Number of a stream of a DART, below [`STREAMS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u8);

impl StreamId {
    /// The first stream.
    pub const FIRST: Self = Self(0);

    /// The stream with `index`, or `None` from [`STREAMS`] on.
    pub fn new(index: usize) -> Option<Self> {
        if index < STREAMS { Some(Self(index as u8)) } else { None }
    }

    /// The index, below [`STREAMS`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A set of streams of one DART, a bit a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamSet(pub u16);

impl StreamSet {
    /// Whether `stream` is in the set.
    pub fn contains(self, stream: StreamId) -> bool {
        self.0 >> stream.0 & 1 != 0
    }

    /// Adds `stream` to the set.
    pub fn insert(&mut self, stream: StreamId) {
        self.0 |= 1 << stream.0;
    }

    /// Removes `stream` from the set.
    pub fn remove(&mut self, stream: StreamId) {
        self.0 &= !(1 << stream.0);
    }

    /// Whether no stream is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The streams, lowest first.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = StreamId> {
        ones(u32::from(self.0)).map(StreamId)
    }
}

/// A set of streams of any DARTs, such as those of a domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// The DARTs that have a member, a bit each: most sets have members of few.
    darts: u32,
    streams: [StreamSet; MAX_DARTS],
}

const _: () = assert!(MAX_DARTS <= 32, "each DART has a bit");

/// The numbers of the bits of `bits` that are set, lowest first.
#[inline]
fn ones(mut bits: u32) -> impl Iterator<Item = u8> {
    core::iter::from_fn(move || {
        if bits == 0 {
            return None;
        }
        let lowest = bits.trailing_zeros() as u8;
        bits &= bits - 1;
        Some(lowest)
    })
}

impl Members {
    /// The members among the streams of `dart`.
    pub fn of(&self, dart: DartId) -> StreamSet {
        self.streams[dart.index()]
    }

    /// Adds a stream.
    pub fn insert(&mut self, dart: DartId, stream: StreamId) {
        self.streams[dart.index()].insert(stream);
        self.darts |= 1 << dart.0;
    }

    /// Removes a stream.
    pub fn remove(&mut self, dart: DartId, stream: StreamId) {
        let streams = &mut self.streams[dart.index()];
        streams.remove(stream);
        if streams.is_empty() {
            self.darts &= !(1 << dart.0);
        }
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.darts == 0
    }

    /// The DARTs that have a member, with their members.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = (DartId, StreamSet)> {
        ones(self.darts).map(DartId).map(|dart| (dart, self.of(dart)))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::{DartId, MAX_DARTS, Members, STREAMS, StreamId, StreamSet};

    #[test]
    fn a_set_gives_its_streams_lowest_first() {
        for bits in 0..=u16::MAX {
            let given: Vec<usize> = StreamSet(bits).iter().map(StreamId::index).collect();
            let expected: Vec<usize> = (0..STREAMS).filter(|bit| bits >> bit & 1 != 0).collect();
            assert_eq!(given, expected);
        }
    }

    #[test]
    fn members_come_and_go_by_dart() {
        let mut members = Members::default();
        assert!(members.is_empty());
        let all: Vec<(DartId, StreamId)> = [(0, 0), (0, 15), (7, 3), (MAX_DARTS - 1, 15)]
            .into_iter()
            .filter_map(|(dart, stream)| Some((DartId::new(dart)?, StreamId::new(stream)?)))
            .collect();
        for (dart, stream) in &all {
            members.insert(*dart, *stream);
        }
        let listed: Vec<(usize, u16)> =
            members.iter().map(|(dart, set)| (dart.index(), set.0)).collect();
        assert_eq!(listed, [(0, 0x8001), (7, 8), (MAX_DARTS - 1, 0x8000)]);
        for (dart, stream) in all {
            assert!(!members.is_empty() && members.of(dart).contains(stream));
            members.remove(dart, stream);
            assert!(members.iter().all(|(_, set)| !set.is_empty()));
        }
        assert_eq!(members, Members::default());
    }
}
