//! Random programs as data: what a driver, a device, a CPU and a hostile guest do, one small step
//! after another.
//!
//! Every number in an operation is taken modulo what there is when it runs, and an operation that
//! makes no sense then does nothing. So any part of a program is a program, which is what
//! shortening needs.

pub mod generate;

use oche_engine::Isolation;
use oche_sim::setup::{Board, FaultInjection};
use serde::{Deserialize, Serialize};

/// What may be under way while the engine works, and so what a program is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Nothing: devices' writes have arrived, and each change of tables or registers is flushed
    /// before anybody does anything else. Every access ends exactly as on the reference.
    Quiescent,
    /// Anything. Invariants hold of every access, and in the end the reference's memory.
    Concurrent,
}

/// What a program runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// What may be under way while the engine works.
    pub mode: Mode,
    /// Format of the hardware tables.
    pub board: Board,
    /// Whether the IOMMU has windows; an SMMU never has.
    pub has_windows: bool,
    /// Whether the IOMMU caches that an entry is not valid.
    pub caches_invalid: bool,
    /// CPUs.
    pub cpus: usize,
    /// DARTs.
    pub darts: usize,
    /// Pages of guest RAM, in two runs with a hole between them and edges that are not frames'
    /// edges.
    pub pages: u32,
    /// Frames that are the engine's own.
    pub frames: u32,
    /// One `prepare` in this many finds no memory; 0 for never.
    pub scarce_tables: u64,
    /// One invalidation in this many does not finish; 0 for never.
    pub timeouts: u64,
    /// How exactly permissions are kept.
    #[serde(with = "IsolationName")]
    pub isolation: Isolation,
    /// Whether the trace watches CPUs' accesses to most of what is mapped, which must have no
    /// effect.
    pub is_watched: bool,
    /// What is wrong with the machine, to see the test fail.
    pub injection: Option<FaultInjection>,
}

/// The names of [`Isolation`] in a program's file: the engine itself reads and writes no files.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Isolation")]
enum IsolationName {
    Page,
    Strict,
}

impl Setting {
    /// An M1-like machine with plenty of everything.
    pub const PLAIN: Self = Self {
        mode: Mode::Concurrent,
        board: Board::Dart,
        has_windows: true,
        caches_invalid: true,
        cpus: 2,
        darts: 2,
        pages: 512,
        frames: 1024,
        scarce_tables: 0,
        timeouts: 0,
        isolation: Isolation::Page,
        is_watched: false,
        injection: None,
    };
}

/// What a device may do with a mapping, as drivers ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rights {
    /// Coherent memory, `DMA_BIDIRECTIONAL`.
    Both,
    /// `DMA_TO_DEVICE`.
    ToDevice,
    /// `DMA_FROM_DEVICE`.
    FromDevice,
    /// Valid, and nothing allowed: no driver does it.
    Neither,
}

/// Which pages a mapping names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// Free pages from anywhere: coherent memory, page cache.
    Scattered,
    /// Free pages in a row.
    Row,
    /// Free pages in a row from a frame's first page on.
    Frames,
    /// Pages of another mapping: fragments of a page, kmalloc neighbours.
    Alias,
    /// One free page again and again: the zero page.
    Repeated,
    /// A page that holds a table.
    Table,
    /// Memory that is not the guest's.
    Outside,
}

/// Where a mapping goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Site {
    /// Where Linux's allocator puts it: from the top, aligned to its size, freed places first.
    Allocator,
    /// At a place with an edge: the first page, the last, both sides of a table's or a TTBR's end.
    Edge(u8),
}

/// What a device's access aims at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// A page of a live mapping.
    Mapping(u16),
    /// A slot beside one.
    Beside(u16),
    /// A place that was unmapped lately.
    Former(u8),
    /// Any IOVA.
    Anywhere(u32),
}

/// Which page a CPU's access touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Choice {
    /// A page of a live mapping.
    Mapped(u16),
    /// Any page of RAM.
    Any(u16),
}

/// An access in the middle of a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum During {
    /// A CPU loads.
    CpuLoad(Choice),
    /// A CPU stores.
    CpuStore(Choice),
    /// A device reads.
    DeviceRead(u8, Target),
    /// A device writes.
    DeviceWrite(u8, Target),
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// A driver prepares tables for a device.
    NewDomain,
    /// A stream begins to use a domain's tables.
    Attach {
        /// Which domain.
        domain: u8,
        /// Which DART.
        dart: u8,
        /// Which stream.
        stream: u8,
        /// Whether the flush follows at once.
        flush: bool,
    },
    /// A stream stops.
    Detach {
        /// Which DART.
        dart: u8,
        /// Which stream.
        stream: u8,
        /// Whether the flush follows at once.
        flush: bool,
    },
    /// All streams of a domain stop and its tables become ordinary memory.
    Free {
        /// Which domain.
        domain: u8,
    },
    /// Pages are mapped.
    Map {
        /// Which domain.
        domain: u8,
        /// How many pages.
        pages: u8,
        /// Which pages.
        source: Source,
        /// With which rights.
        rights: Rights,
        /// Where.
        site: Site,
        /// Whether the pages are written first, as data for a device is.
        fill: bool,
        /// Whether the flush follows at once.
        flush: bool,
    },
    /// A mapping goes.
    Unmap {
        /// Which mapping.
        mapping: u16,
        /// Whether the flush follows at once.
        flush: bool,
    },
    /// Other pages take a mapping's place.
    Replace {
        /// Which mapping.
        mapping: u16,
        /// Which pages.
        source: Source,
        /// With which rights.
        rights: Rights,
        /// Whether the flush follows at once.
        flush: bool,
    },
    /// A mapping's rights change.
    Permit {
        /// Which mapping.
        mapping: u16,
        /// The new rights.
        rights: Rights,
        /// Whether the flush follows at once.
        flush: bool,
    },
    /// A mapping loses a page to another one, or its end, and the rights of the rest change, all in
    /// one flush.
    Amend {
        /// Which mapping.
        mapping: u16,
        /// Which of its pages.
        page: u8,
        /// What takes the page's place. If there is none, the pages from this one on go.
        source: Option<Source>,
        /// The new rights.
        rights: Rights,
        /// Whether the flush follows at once.
        flush: bool,
    },
    /// The guest flushes streams.
    Flush {
        /// Which DART.
        dart: u8,
        /// The streams, a bit each.
        streams: u16,
    },
    /// A CPU loads.
    Load {
        /// Which page.
        page: Choice,
        /// How much.
        length: u8,
    },
    /// A CPU stores.
    Store {
        /// Which page.
        page: Choice,
        /// How much.
        length: u8,
    },
    /// A CPU fetches instructions.
    Fetch {
        /// Which page.
        page: Choice,
    },
    /// A CPU's walk of its own tables reads a page of them, or sets an access flag there.
    Walk {
        /// Which page.
        page: Choice,
        /// Whether it sets the flag.
        is_write: bool,
    },
    /// A device reads.
    Read {
        /// Which stream, for a target that names none.
        stream: u8,
        /// Where.
        target: Target,
        /// How much.
        length: u8,
    },
    /// A device writes.
    Write {
        /// Which stream, for a target that names none.
        stream: u8,
        /// Where.
        target: Target,
        /// How much.
        length: u8,
    },
    /// Receive buffers of 1984 bytes, packed: several share a page and some straddle two, each
    /// mapped by itself.
    Pack {
        /// Which domain.
        domain: u8,
        /// How many buffers.
        buffers: u8,
        /// With which rights.
        rights: Rights,
    },
    /// A device writes and a CPU looks at once, or a CPU writes and a device looks, with no flush
    /// between, while other devices' writes are under way.
    Exchange {
        /// Which stream, for a target that names none.
        stream: u8,
        /// Where.
        target: Target,
        /// How much.
        length: u8,
        /// Whether the device looks.
        to_device: bool,
    },
    /// A disk that no DART translates writes a page of memory or reads it.
    Disk {
        /// Which page.
        page: Choice,
        /// How much of it is looked at.
        length: u8,
        /// Whether the memory is written.
        is_write: bool,
        /// Whether it goes on using the page for something else, until another one is used.
        stays: bool,
    },
    /// A disk writes a page, and before it has completed the command, a driver maps the page for
    /// another device, which reads it. Nothing in a concurrent program, where a device may read a
    /// copy that the disk's write reaches only when it has completed.
    DiskMap {
        /// Which domain.
        domain: u8,
        /// Which page.
        page: Choice,
        /// With which rights.
        rights: Rights,
    },
    /// Transfers under way arrive.
    Deliver(u8),
    /// These happen in the middle of the next sync.
    Overlap(Vec<During>),
    /// The guest reads back every register of a stream, and the common ones.
    ReadBack {
        /// Which DART.
        dart: u8,
        /// Which stream.
        stream: u8,
    },
    /// The guest's fault handler runs.
    HandleFault {
        /// Which DART.
        dart: u8,
    },
    /// Registers are saved, the DART is reset, registers are restored.
    Suspend {
        /// Which DART.
        dart: u8,
    },
    /// An access of a width or alignment that no register has, or of one that means nothing.
    OddAccess {
        /// Which DART.
        dart: u8,
        /// Where.
        offset: u16,
        /// How wide.
        bytes: u8,
        /// Whether a value is written.
        is_write: bool,
    },
    /// Streams may or may not do DMA.
    Enable {
        /// Which DART.
        dart: u8,
        /// The streams, a bit each.
        streams: u16,
    },
    /// TCRs and TTBRs of a DART are locked until reset.
    Lock {
        /// Which DART.
        dart: u8,
    },
    /// A hostile guest: any value in a leaf table or a first-level table.
    BreakTable {
        /// Which domain.
        domain: u8,
        /// Whether a first-level table.
        is_first: bool,
        /// Which word.
        word: u16,
        /// What kind of value.
        garbage: u8,
        /// Whether a flush follows at once.
        flush: bool,
    },
    /// A hostile guest: any value in a TTBR or TCR.
    BreakRegister {
        /// Which DART.
        dart: u8,
        /// Which stream.
        stream: u8,
        /// TTBR 0 to 3, or TCR from 4 on.
        register: u8,
        /// What kind of value.
        garbage: u8,
    },
}

/// An operation with the chance that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What happens.
    pub operation: Operation,
    /// Decides all that the operation leaves open.
    pub seed: u32,
}

/// A machine and what happens on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The machine.
    pub setting: Setting,
    /// What happens, in order.
    pub steps: Vec<Step>,
}
