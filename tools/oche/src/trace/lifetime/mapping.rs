//! A page of a device's address space, and the stream that it belongs to.

use oche_trace::record::Stamp;
use oche_types::addr::{Gfn, IovaPage};
use oche_types::dart::entry::Permission;
use oche_types::dart::stream::{DartId, MAX_DARTS, STREAMS, StreamId};
use oche_types::event::{Place, Placement};

/// Streams that a trace can name: 16 of each of 32 DARTs.
pub const PLACES: usize = MAX_DARTS * STREAMS;

/// A stream of a DART, as one number below [`PLACES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamPlace(pub(super) u16);

impl StreamPlace {
    /// The place of `stream` of `dart`.
    pub fn new(dart: DartId, stream: StreamId) -> Self {
        Self((dart.index() * STREAMS + stream.index()) as u16)
    }

    /// The place with this index, if there is one.
    pub fn from_index(index: usize) -> Option<Self> {
        if index < PLACES { Some(Self(index as u16)) } else { None }
    }

    /// The place of `dart`'s first stream.
    pub fn first_of(dart: DartId) -> Self {
        Self((dart.index() * STREAMS) as u16)
    }

    /// The number, below [`PLACES`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The DART's number.
    pub fn dart(self) -> usize {
        self.index() / STREAMS
    }

    /// The stream's number on its DART.
    pub fn stream(self) -> usize {
        self.index() % STREAMS
    }
}

impl From<Place> for StreamPlace {
    fn from(at: Place) -> Self {
        Self::new(at.dart, at.stream)
    }
}

/// A page of a device's address space that is, or was, mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The stream that asked for it.
    pub owner: StreamPlace,
    /// The page of IOVA space.
    pub iova: IovaPage,
    /// The guest's page.
    pub page: Gfn,
    /// The device's permission.
    pub permission: Permission,
    /// The page's placement.
    pub placement: Placement,
    /// Time, CPU and guest code of the map.
    pub since: Stamp,
    /// Which flush of that CPU brought it, counted from 1; 0 where none is known. Pages that came
    /// with one flush and lie side by side are one buffer of the guest.
    pub flush: u32,
}

impl Mapping {
    /// Whether the device may write, or else read.
    pub fn allows(&self, is_write: bool) -> bool {
        if is_write { self.permission.write } else { self.permission.read }
    }

    /// Whether `next` is the same buffer's next page.
    pub fn continues_with(&self, next: &Self) -> bool {
        next.iova.0 == self.iova.0.wrapping_add(1)
            && (next.owner, next.permission, next.flush)
                == (self.owner, self.permission, self.flush)
            && next.since.cpu == self.since.cpu
    }
}

/// Where a mapping is: its space, and the IOVA's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) space: u16,
    pub(super) iova: u32,
}
