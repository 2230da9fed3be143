//! What happened, as events, in the engine's own types.

use crate::addr::{Frame, Gfn, Hfn, IovaPage};
use crate::dart::entry::Permission;
use crate::dart::stream::{DartId, StreamId, StreamSet};

/// One thing that happened in the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The guest read or wrote a register of a virtual DART.
    Register {
        /// The DART.
        dart: DartId,
        /// Byte offset in the register region.
        offset: u16,
        /// Whether it was a write.
        is_write: bool,
        /// The value written or answered.
        value: u32,
    },
    /// The guest asked to invalidate: a sync begins.
    Flush {
        /// The DART.
        dart: DartId,
        /// The selected streams.
        streams: StreamSet,
    },
    /// A sync ended and the guest may go on.
    FlushDone {
        /// The DART.
        dart: DartId,
        /// Pages that were mapped or unmapped in it.
        pages: u32,
        /// Whether work is left for the next poll of the busy bit.
        is_busy: bool,
    },
    /// A page became reachable for a device.
    Map {
        /// On behalf of which stream.
        at: Place,
        /// The guest page.
        page: Gfn,
        /// What the device may do.
        permission: Permission,
        /// How the page is reached.
        placement: Placement,
    },
    /// A page stays where it was, and a device may from now on do something else with it.
    Permission {
        /// On behalf of which stream.
        at: Place,
        /// The guest page.
        page: Gfn,
        /// What the device may do.
        permission: Permission,
    },
    /// A page is no longer reachable for a device.
    Unmap {
        /// On behalf of which stream.
        at: Place,
        /// The guest page.
        page: Gfn,
    },
    /// A page could not be made reachable; the device finds nothing there.
    Refused {
        /// On behalf of which stream.
        at: Place,
        /// The page that the guest named.
        page: Gfn,
        /// Why.
        reason: Refusal,
    },
    /// A page's bytes moved and CPUs now find them at `to`.
    Moved {
        /// The guest page.
        page: Gfn,
        /// Where it is now; `page.home()` when it went home.
        to: Hfn,
    },
    /// A master that no DART translates names a page that is away: it comes home.
    Fetched {
        /// The guest page.
        page: Gfn,
        /// Where it was.
        from: Hfn,
    },
    /// A granule that devices use changed its frame while mapped.
    LiveMove {
        /// The granule's first page, and the stream.
        at: Place,
        /// The frame that it has now.
        to: Frame,
        /// Bytes that the device wrote into the old frame meanwhile, brought along.
        merged_bytes: u32,
    },
    /// The copies of a page mapped more than once were made equal.
    Merged {
        /// The guest page.
        page: Gfn,
        /// Bytes that had changed.
        bytes: u32,
    },
    /// A device wrote into a part of a granule where nothing is mapped. One [`Event::Data`] follows at once on the same
    /// CPU with the page's bytes from `offset` on, as many as fit.
    RedZone {
        /// The page in which the first byte was hit, and the stream.
        at: Place,
        /// The first byte's offset in the page.
        offset: u16,
        /// How many bytes of the page no longer held the pattern.
        bytes: u16,
    },
    /// A device's access was refused.
    Fault {
        /// The DART.
        dart: DartId,
        /// The stream.
        stream: StreamId,
        /// The IOVA.
        iova: u64,
        /// The code as the guest reads it in its DART's ERROR register.
        code: u16,
        /// Whether it was a write.
        is_write: bool,
        /// Whether the ERROR register still held an earlier fault, so the guest will not see this one.
        is_hidden: bool,
    },
    /// A guest page began (`is_open`: writes to it are not trapped) or ceased to be watched by comparison.
    Table {
        /// The guest page that holds a table.
        page: Gfn,
        /// Whether CPUs may write it without a trap.
        is_open: bool,
    },
    /// A stream began to translate through tables, or (no root) was blocked.
    Attach {
        /// The DART.
        dart: DartId,
        /// The stream.
        stream: StreamId,
        /// The guest page that TTBR 0 names, if the stream translates.
        root: Option<Gfn>,
    },
    /// The hardware did not finish an invalidation in time; its streams are blocked.
    InvalidateTimedOut {
        /// A DART of the space.
        dart: DartId,
    },
    /// The guest touched a watched page of its own, or something that it may not touch.
    Access {
        /// Guest-physical address.
        address: u64,
        /// Whether it was a write.
        is_write: bool,
    },
    /// What is recorded changed: from here on events may be missing on purpose.
    Filter {
        /// Which setting it is, counted from 1.
        generation: u32,
        /// Whether every event is recorded.
        is_whole: bool,
    },
    /// The first bytes of a page, taken when a device may begin to read it or has ended to write it. As many
    /// [`Event::Data`] follow at once on the same CPU as hold `bytes`.
    Snapshot {
        /// On behalf of which stream.
        at: Place,
        /// The guest page.
        page: Gfn,
        /// Whether it was unmapped after the device could write it; otherwise it was mapped for the device to read.
        is_written: bool,
        /// How many bytes were taken, at most 4096.
        bytes: u16,
    },
    /// A CPU touched watched bytes. As many [`Event::Data`] follow at once on the same CPU as hold `bytes`: the value.
    Watch {
        /// The IOVA's page, and the stream on whose behalf it is watched.
        at: Place,
        /// The first byte's offset in the page.
        offset: u16,
        /// The guest page.
        page: Gfn,
        /// How many bytes are told of, at most 64.
        bytes: u8,
        /// Whether it was a store.
        is_write: bool,
        /// What is known of it.
        how: WatchHow,
    },
    /// Who called the code that is about to flush. As many [`Event::Data`] follow at once on the same CPU as hold the
    /// return addresses behind the first.
    Callers {
        /// The DART.
        dart: DartId,
        /// How many return addresses there are, at most 12.
        frames: u8,
        /// Where the innermost function returns to, a virtual address of the guest's.
        first: u64,
    },
    /// Bytes of the event before, as little-endian words in the order of their addresses; behind its end there
    /// are zeros.
    Data([u64; 2]),
}

/// A page of a device's address space, with the stream on whose behalf something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The DART.
    pub dart: DartId,
    /// The stream; where several share the tables, the lowest of them.
    pub stream: StreamId,
    /// The page of IOVA space.
    pub iova: IovaPage,
}

/// What is known of an access to watched bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum WatchHow {
    /// The bytes are exactly those that were loaded or stored.
    Exact = 0,
    /// The CPU executes the instruction by itself; these are the bytes from the first that it touches on, before that.
    Before = 1,
    /// The same bytes afterwards.
    After = 2,
    /// The page is no longer watched: a CPU fetches instructions from it, or walks tables in it.
    GivenUp = 3,
}

/// How a mapped page is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Placement {
    /// At home: the granule's four pages are one aligned frame.
    Direct = 0,
    /// Moved into the slot of a composed frame; CPUs reach it there.
    Composed = 1,
    /// Copied into the slot of a composed frame, since the page is already mapped elsewhere.
    Replica = 2,
}

/// Why a mapping was refused. A 4K DART would have taken it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// The frame pool is exhausted.
    PoolExhausted = 0,
    /// The page belongs to Oche, or nothing answers there.
    NotGuestMemory = 1,
    /// The page is a device's, and its granule does not name one whole aligned frame of it.
    DeviceNotDirect = 2,
    /// The entry narrows the page by a sub-page window, which is not supported yet.
    SubPageWindow = 3,
    /// The page is mapped at too many IOVAs.
    TooManyAliases = 4,
    /// A table lies outside guest RAM.
    TableNotGuestMemory = 5,
    /// There are more tables than Oche can watch.
    TooManyTables = 6,
    /// There are more spaces than Oche can hold.
    TooManySpaces = 7,
    /// Stage 2 has no memory left to give the page an entry of its own.
    OutOfStage2Tables = 8,
    /// A CPU fetches instructions from the page, or walks tables in it, while a device may write a copy of it.
    NotGuardable = 9,
    /// The page's permission is another than its granule's, and the hardware cannot keep them apart.
    MixedPermission = 10,
}

/// What a record is about. The numbers are part of the file format and never change their meaning.
///
/// In the docs below "high" and "low" are bits 63:32 and 31:0 of the payload, and pages are numbers of 4 KiB pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Register access. Detail bit 0: write. Payload 31:0: value; 47:32: byte offset.
    Register = 1,
    /// Invalidation asked for. Payload 15:0: the streams, a bit each.
    Flush = 2,
    /// Invalidation done. Detail bit 0: work is left. Low: pages that changed.
    FlushDone = 3,
    /// Page mapped. Detail bit 0: device may read; 1: device may write; 5:2: placement. High: IOVA page; low: guest page.
    Map = 4,
    /// Page unmapped. High: IOVA page; low: guest page.
    Unmap = 5,
    /// Mapping refused. Detail 7:0: reason. High: IOVA page; low: guest page.
    Refused = 6,
    /// Page moved. High: host page; low: guest page.
    Moved = 7,
    /// Granule moved while in use. Detail: bytes merged, at most 32767. High: IOVA page; low: 16 KiB frame.
    LiveMove = 8,
    /// Copies made equal. High: bytes that had changed; low: guest page.
    Merged = 9,
    /// Write where nothing is mapped. High: IOVA page; payload 15:0: first byte's offset; 31:16: bytes hit.
    RedZone = 11,
    /// Access refused. Detail 12:0: code of the DART's ERROR register (12 bits there); 13: write; 14: hidden. Payload: IOVA.
    Fault = 12,
    /// Table page watched by trap or by comparison. Detail bit 0: by comparison (open). Low: guest page.
    Table = 13,
    /// Stream attached or blocked. Detail bit 0: attached. Low: guest page of the root.
    Attach = 14,
    /// Hardware did not finish an invalidation.
    InvalidateTimedOut = 15,
    /// Guarded access. Detail bit 0: write. Payload: guest-physical address.
    Access = 16,
    /// What is recorded changed. Detail bit 0: everything is recorded. Low: which setting it is.
    Filter = 17,
    /// Bytes of a page. Detail 12:0: how many follow; 14: taken at unmap. High: IOVA page; low: guest page.
    Snapshot = 18,
    /// Sixteen bytes of the record before: words 2 and 3 whole, so it has no program counter.
    Data = 19,
    /// Watched bytes touched; their value follows. Detail bit 0: store; 7:1: how many bytes; 9:8: what is known of it.
    /// High: IOVA of the first byte; low: guest page.
    Watch = 20,
    /// Callers of the code that flushes, before the flush. Detail 3:0: how many return addresses there are. Payload: the
    /// innermost; the others follow.
    Callers = 21,
    /// Page brought home for a master behind no DART. High: host page where it was; low: guest page.
    Fetched = 22,
    /// Permission of a mapped page changed. Detail bit 0: device may read; 1: may write. High: IOVA page; low: guest page.
    Permission = 23,
}

impl Kind {
    /// All kinds, by number.
    pub const ALL: [Self; 22] = [
        Self::Register,
        Self::Flush,
        Self::FlushDone,
        Self::Map,
        Self::Unmap,
        Self::Refused,
        Self::Moved,
        Self::LiveMove,
        Self::Merged,
        Self::RedZone,
        Self::Fault,
        Self::Table,
        Self::Attach,
        Self::InvalidateTimedOut,
        Self::Access,
        Self::Filter,
        Self::Snapshot,
        Self::Data,
        Self::Watch,
        Self::Callers,
        Self::Fetched,
        Self::Permission,
    ];

    /// The kind of `event`.
    #[inline]
    pub fn of(event: &Event) -> Self {
        match event {
            Event::Register { .. } => Self::Register,
            Event::Flush { .. } => Self::Flush,
            Event::FlushDone { .. } => Self::FlushDone,
            Event::Map { .. } => Self::Map,
            Event::Permission { .. } => Self::Permission,
            Event::Unmap { .. } => Self::Unmap,
            Event::Refused { .. } => Self::Refused,
            Event::Moved { .. } => Self::Moved,
            Event::Fetched { .. } => Self::Fetched,
            Event::LiveMove { .. } => Self::LiveMove,
            Event::Merged { .. } => Self::Merged,
            Event::RedZone { .. } => Self::RedZone,
            Event::Fault { .. } => Self::Fault,
            Event::Table { .. } => Self::Table,
            Event::Attach { .. } => Self::Attach,
            Event::InvalidateTimedOut { .. } => Self::InvalidateTimedOut,
            Event::Access { .. } => Self::Access,
            Event::Filter { .. } => Self::Filter,
            Event::Snapshot { .. } => Self::Snapshot,
            Event::Watch { .. } => Self::Watch,
            Event::Callers { .. } => Self::Callers,
            Event::Data(_) => Self::Data,
        }
    }

    /// The kind with `number`, or `None` where this version knows none.
    #[inline]
    pub fn from_number(number: u8) -> Option<Self> {
        // No version ever recorded a kind 10.
        let index = match number {
            1..=9 => number - 1,
            11.. => number - 2,
            _ => return None,
        };
        Self::ALL.get(usize::from(index)).copied()
    }

    /// The number in bits 39:32 of word 1.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The name in every text output; `map`, `unmap` and `io_page_fault` are those of Linux's `iommu` trace events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Flush => "flush",
            Self::FlushDone => "flush_done",
            Self::Map => "map",
            Self::Unmap => "unmap",
            Self::Refused => "refused",
            Self::Moved => "moved",
            Self::LiveMove => "live_move",
            Self::Merged => "merged",
            Self::RedZone => "red_zone",
            Self::Fault => "io_page_fault",
            Self::Table => "table",
            Self::Attach => "attach",
            Self::InvalidateTimedOut => "invalidate_timeout",
            Self::Access => "access",
            Self::Filter => "filter",
            Self::Snapshot => "snapshot",
            Self::Data => "data",
            Self::Watch => "watch",
            Self::Callers => "callers",
            Self::Fetched => "fetched",
            Self::Permission => "permission",
        }
    }
}
