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
    pub fn iter(self) -> impl Iterator<Item = StreamId> {
        (0..STREAMS as u8).map(StreamId).filter(move |stream| self.contains(*stream))
    }
}

/// A set of streams of any DARTs, such as those of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Members([StreamSet; MAX_DARTS]);

impl Default for Members {
    fn default() -> Self {
        Self([StreamSet(0); MAX_DARTS])
    }
}

impl Members {
    /// The members among the streams of `dart`.
    pub fn of(&self, dart: DartId) -> StreamSet {
        self.0[dart.index()]
    }

    /// Adds a stream.
    pub fn insert(&mut self, dart: DartId, stream: StreamId) {
        self.0[dart.index()].insert(stream);
    }

    /// Removes a stream.
    pub fn remove(&mut self, dart: DartId, stream: StreamId) {
        self.0[dart.index()].remove(stream);
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|set| set.is_empty())
    }

    /// The DARTs that have a member, with their members.
    pub fn iter(&self) -> impl Iterator<Item = (DartId, StreamSet)> {
        (0..MAX_DARTS as u8).map(DartId).zip(self.0).filter(|(_, set)| !set.is_empty())
    }
}
