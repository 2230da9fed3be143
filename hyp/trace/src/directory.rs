//! The trace directory: the page by which readers find the rings and counters and learn what is
//! what.
//!
//! It stands at a 2 MiB-aligned host address in Oche's own memory, is found by its magic, and is
//! followed by the rings. Everything is little-endian; offsets are in bytes from the directory's
//! start.
//!
//! ```text
//! 0x0000  header         magic, sizes, clock, board                       (fields: see `header` below)
//! 0x0100  heads          one 64-byte line per CPU: u64 records ever written, u64 events left out by the filter
//! 0x0900  DARTs          64 bytes each: u32 id, u32 0, u64 register base (physical), name[48]
//! 0x1100  devices        64 bytes each: u32 requester id, u16 DART, u16 stream, name[56]
//! 0x3100  counter names  32 bytes each: name[24], u32 scope (0 global, 1 per CPU), u32 place in its block
//! 0x4100  counter blocks 512 bytes each, 64 u64: the global block, then one per CPU
//! 0x9000  control        what is recorded (see `control`); the one part that others than Oche write
//! 0x10000 ring of CPU 0, ring of CPU 1, ...  (the header says where and how long)
//! ```

use core::ops::Range;

use oche_types::dart::stream::{DartId, MAX_DARTS, StreamId};

use crate::record::RECORD_BYTES;
use crate::statistics::{Exit, NAME_BYTES, Statistics};
use crate::words::{Text, Words, halves, pair};

/// The first eight bytes.
pub const MAGIC: u64 = u64::from_le_bytes(*b"OCHETRAC");
/// Where the directory of the boot before is kept: `OCHEPREV`.
pub const PREVIOUS_MAGIC: u64 = u64::from_le_bytes(*b"OCHEPREV");
/// Version of this layout and of the records.
pub const VERSION: u32 = 1;
/// The directory lies at a multiple of this many bytes, 2 MiB, of host memory.
pub const ALIGNMENT: u64 = 2 << 20;
/// Bytes of the directory, rings not counted: 64 KiB.
pub const DIRECTORY_BYTES: usize = 0x1_0000;
/// CPUs that can have a ring.
pub const MAX_CPUS: usize = 32;
/// Devices that can be named.
pub const MAX_DEVICES: usize = 128;
/// Counters that can be named.
pub const MAX_COUNTERS: usize = 128;
/// Counters in a block.
const BLOCK_COUNTERS: usize = 64;
/// Bytes from the start up to the counters: what describes the trace and does not change while it
/// runs, but for the heads.
pub const DESCRIPTION_BYTES: usize = NAMES;

/// Offset of the control block, in bytes: see [`crate::control`].
pub const CONTROL: usize = 0x9000;

/// From the word that counts a CPU's records to the one that counts what its filter left out.
pub(super) const FILTERED_WORD: usize = 1;
/// The same for the pages of which no snapshot could be taken.
pub(super) const NO_SNAPSHOT_WORD: usize = 2;

const HEADS: usize = 0x100;
const HEAD_BYTES: usize = 64;
const DARTS: usize = 0x900;
const DART_BYTES: usize = 64;
const DEVICES: usize = 0x1100;
const DEVICE_BYTES: usize = 64;
const NAMES: usize = 0x3100;
const NAME_ENTRY_BYTES: usize = 32;
const BLOCKS: usize = 0x4100;
const BLOCK_BYTES: usize = BLOCK_COUNTERS * 8;

/// Byte offsets in the header.
mod header {
    pub(super) const MAGIC: usize = 0x00;
    /// u32 version, u32 bytes of the directory.
    pub(super) const VERSION: usize = 0x08;
    /// u64 bytes of directory and rings.
    pub(super) const TOTAL: usize = 0x10;
    /// u32 CPUs, u32 bytes of a record.
    pub(super) const CPUS: usize = 0x18;
    /// u64 offset of CPU 0's ring.
    pub(super) const RING_BASE: usize = 0x20;
    /// u64 bytes from one CPU's ring to the next one's.
    pub(super) const RING_STRIDE: usize = 0x28;
    /// u64 records in a ring: a power of two, or 0 where events are not recorded.
    pub(super) const RING_RECORDS: usize = 0x30;
    /// u64 CNTFRQ_EL0, in Hz.
    pub(super) const COUNTER_HZ: usize = 0x38;
    /// u64 CNTPCT_EL0 when the directory was written.
    pub(super) const START: usize = 0x40;
    /// u64 nanoseconds since 1970 UTC at `START`, 0 where not known.
    pub(super) const WALL_CLOCK: usize = 0x48;
    /// u32 DARTs, u32 devices.
    pub(super) const TABLES: usize = 0x50;
    /// u32 counter names, u32 0.
    pub(super) const COUNTERS: usize = 0x58;
    /// `name[32]` of the board.
    pub(super) const BOARD: usize = 0x60;
    /// Where the header's fields end; 0 from here to 0x100.
    pub(super) const END: usize = 0x80;
}

const _: () = {
    assert!(header::END <= HEADS && HEADS + MAX_CPUS * HEAD_BYTES == DARTS);
    assert!(
        DARTS + MAX_DARTS * DART_BYTES == DEVICES && DEVICES + MAX_DEVICES * DEVICE_BYTES == NAMES
    );
    assert!(NAMES + MAX_COUNTERS * NAME_ENTRY_BYTES == BLOCKS);
    assert!(BLOCKS + (1 + MAX_CPUS) * BLOCK_BYTES <= CONTROL);
    assert!(Statistics::NAMES.len() <= BLOCK_COUNTERS && Exit::NAMES.len() <= BLOCK_COUNTERS);
    assert!(Statistics::NAMES.len() + Exit::NAMES.len() <= MAX_COUNTERS);
    assert!(NAME_BYTES + 8 == NAME_ENTRY_BYTES);
};

/// Where things are: worked out at boot from a few sizes, and read back and checked by readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    cpus: usize,
    ring_records: u64,
    ring_base: usize,
    ring_stride: usize,
    total_bytes: usize,
}

/// Why there is no directory that this version can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryError {
    /// The magic is not there.
    Absent,
    /// It is of another version, this one.
    Version(u32),
    /// A size or an offset contradicts another or the memory at hand.
    Damaged,
}

impl core::fmt::Display for DirectoryError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Absent => write!(formatter, "there is no trace directory"),
            Self::Version(version) => {
                write!(
                    formatter,
                    "the trace directory has version {version}, this program reads version {VERSION}"
                )
            }
            Self::Damaged => {
                write!(formatter, "the trace directory is damaged: its sizes contradict each other")
            }
        }
    }
}

impl core::error::Error for DirectoryError {}

impl Layout {
    /// Room for `cpus` CPUs (1 to [`MAX_CPUS`]; others are cut to that) with rings of the largest
    /// power of two of records that fits in `ring_bytes` each. With less than one record's bytes
    /// there are counters but no events.
    pub fn new(cpus: usize, ring_bytes: usize) -> Self {
        let cpus = cpus.clamp(1, MAX_CPUS);
        // Four gigabytes a ring is the most that 32-bit sequence numbers tell apart with a wide
        // margin.
        let records = (ring_bytes / RECORD_BYTES).min(1 << 27);
        let records = if records == 0 { 0 } else { 1 << records.ilog2() };
        let ring_stride = records * RECORD_BYTES;
        Self {
            cpus,
            ring_records: records as u64,
            ring_base: DIRECTORY_BYTES,
            ring_stride,
            total_bytes: DIRECTORY_BYTES + cpus * ring_stride,
        }
    }

    /// The layout that the directory at the start of `words` names, if it fits in `limit_bytes`.
    ///
    /// # Errors
    ///
    /// All of [`DirectoryError`].
    pub fn read(words: &impl Words, limit_bytes: usize) -> Result<Self, DirectoryError> {
        Self::read_as(MAGIC, words, limit_bytes)
    }

    /// The same of the directory that [`keep_previous`] put there.
    ///
    /// # Errors
    ///
    /// All of [`DirectoryError`].
    pub fn read_previous(words: &impl Words, limit_bytes: usize) -> Result<Self, DirectoryError> {
        Self::read_as(PREVIOUS_MAGIC, words, limit_bytes)
    }

    fn read_as(magic: u64, words: &impl Words, limit_bytes: usize) -> Result<Self, DirectoryError> {
        if limit_bytes < header::END || words.load(header::MAGIC / 8) != magic {
            return Err(DirectoryError::Absent);
        }
        let (version, directory_bytes) = halves(words.load(header::VERSION / 8));
        if version != VERSION {
            return Err(DirectoryError::Version(version));
        }
        let (cpus, record_bytes) = halves(words.load(header::CPUS / 8));
        let size =
            |offset| usize::try_from(words.load(offset / 8)).map_err(|_| DirectoryError::Damaged);
        let layout = Self {
            cpus: cpus as usize,
            ring_records: words.load(header::RING_RECORDS / 8),
            ring_base: size(header::RING_BASE)?,
            ring_stride: size(header::RING_STRIDE)?,
            total_bytes: size(header::TOTAL)?,
        };
        let sizes_agree =
            directory_bytes as usize == DIRECTORY_BYTES && record_bytes as usize == RECORD_BYTES;
        if sizes_agree && layout.is_sound(limit_bytes) {
            Ok(layout)
        } else {
            Err(DirectoryError::Damaged)
        }
    }

    fn is_sound(&self, limit_bytes: usize) -> bool {
        let ring_bytes =
            usize::try_from(self.ring_records).ok().and_then(|n| n.checked_mul(RECORD_BYTES));
        let end = self
            .ring_stride
            .checked_mul(self.cpus)
            .and_then(|bytes| bytes.checked_add(self.ring_base));
        (1..=MAX_CPUS).contains(&self.cpus)
            && (self.ring_records == 0 || self.ring_records.is_power_of_two())
            && self.ring_base >= DIRECTORY_BYTES
            && self.ring_base.is_multiple_of(8)
            && self.ring_stride.is_multiple_of(8)
            && ring_bytes.is_some_and(|bytes| bytes <= self.ring_stride)
            && end.is_some_and(|end| end <= self.total_bytes)
            && self.total_bytes <= limit_bytes
    }

    /// Bytes that directory and rings take.
    pub fn total_bytes(&self) -> usize {
        self.total_bytes
    }

    /// CPUs that have a ring and a counter block.
    pub fn cpus(&self) -> usize {
        self.cpus
    }

    /// Records in a ring: a power of two, or 0 where events are not recorded.
    pub fn ring_records(&self) -> u64 {
        self.ring_records
    }

    /// The word that counts what `cpu` ever wrote.
    pub(super) fn head_word(&self, cpu: usize) -> usize {
        (HEADS + cpu * HEAD_BYTES) / 8
    }

    /// The first word of the ring of `cpu`.
    pub(super) fn ring_word(&self, cpu: usize) -> usize {
        (self.ring_base + cpu * self.ring_stride) / 8
    }
}

/// Moves the directory and the rings that an earlier boot left in `now` to `before`, of `bytes`
/// bytes like it, where readers find them by [`PREVIOUS_MAGIC`]. False: there are none, and what
/// `before` holds of a boot before that stays.
pub fn keep_previous(now: &impl Words, before: &impl Words, bytes: usize) -> bool {
    let Ok(layout) = Layout::read(now, bytes) else { return false };
    before.store(header::MAGIC / 8, 0);
    for word in 1..layout.total_bytes / 8 {
        before.store(word, now.load(word));
    }
    before.store(header::MAGIC / 8, PREVIOUS_MAGIC);
    now.store(header::MAGIC / 8, 0);
    true
}

/// The first [`DESCRIPTION_BYTES`] of the directory in `words`, as every trace file has them,
/// whichever boot's it is.
pub fn description(words: &impl Words) -> impl Iterator<Item = u64> {
    (0..DESCRIPTION_BYTES / 8).map(|index| match words.load(index) {
        PREVIOUS_MAGIC if index == header::MAGIC / 8 => MAGIC,
        word => word,
    })
}

/// What the directory says of the machine as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The board's name.
    pub board: Text<32>,
    /// `CNTFRQ_EL0`, in Hz.
    pub counter_hz: u64,
    /// `CNTPCT_EL0` when the directory was written.
    pub start_ticks: u64,
    /// Nanoseconds since 1970 UTC at that moment, where somebody knew.
    pub wall_clock_nanoseconds: Option<u64>,
}

impl Machine {
    /// What the directory at the start of `words` says.
    pub fn read(words: &impl Words) -> Self {
        let wall_clock = words.load(header::WALL_CLOCK / 8);
        Self {
            board: Text::load(words, header::BOARD / 8),
            counter_hz: words.load(header::COUNTER_HZ / 8),
            start_ticks: words.load(header::START / 8),
            wall_clock_nanoseconds: if wall_clock == 0 { None } else { Some(wall_clock) },
        }
    }
}

/// A DART as the directory names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DartEntry {
    /// Its number in records.
    pub dart: DartId,
    /// Physical address of its registers, as the guest knows it.
    pub registers: u64,
    /// Its name.
    pub name: Text<48>,
}

/// A device behind a DART as the directory names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceEntry {
    /// PCI requester id (bus, device, function), or another bus's own number.
    pub requester: u32,
    /// Its DART.
    pub dart: DartId,
    /// Its stream there.
    pub stream: StreamId,
    /// Its name, from the FDT or from the bus.
    pub name: Text<56>,
}

/// Fills a directory at boot, before any reader can take it for one.
///
/// ```
/// # use oche_trace::directory::*;
/// # use oche_types::dart::stream::{DartId, StreamId};
/// # struct Nowhere;
/// # impl oche_trace::words::Words for Nowhere {
/// #     fn load(&self, _: usize) -> u64 { 0 }
/// #     fn store(&self, _: usize, _: u64) {}
/// # }
/// # let words = Nowhere;
/// # let (dart, stream) = (DartId::new(0).unwrap(), StreamId::new(1).unwrap());
/// # let machine = Machine::read(&words);
/// let layout = Layout::new(4, 4 << 20);
/// let mut writer = DirectoryWriter::begin(&words, layout, &machine);
/// writer.dart(dart, 0x0910_0000, "dart0");
/// writer.device(0x08, dart, stream, "0000:00:01.0");
/// writer.finish();
/// ```
pub struct DirectoryWriter<'a, W> {
    words: &'a W,
    darts: u32,
    devices: u32,
}

impl<'a, W: Words> DirectoryWriter<'a, W> {
    /// Withdraws whatever directory was there, clears it, and writes everything but the tables.
    pub fn begin(words: &'a W, layout: Layout, machine: &Machine) -> Self {
        for word in 0..DIRECTORY_BYTES / 8 {
            words.store(word, 0);
        }
        let set = |offset: usize, value| words.store(offset / 8, value);
        set(header::VERSION, pair(VERSION, DIRECTORY_BYTES as u32));
        set(header::TOTAL, layout.total_bytes as u64);
        set(header::CPUS, pair(layout.cpus as u32, RECORD_BYTES as u32));
        set(header::RING_BASE, layout.ring_base as u64);
        set(header::RING_STRIDE, layout.ring_stride as u64);
        set(header::RING_RECORDS, layout.ring_records);
        set(header::COUNTER_HZ, machine.counter_hz);
        set(header::START, machine.start_ticks);
        set(header::WALL_CLOCK, machine.wall_clock_nanoseconds.unwrap_or(0));
        machine.board.store(words, header::BOARD / 8);
        let names = Scope::ALL
            .into_iter()
            .flat_map(|scope| scope.names().iter().enumerate().map(move |of| (scope, of)));
        for (entry, (scope, (place, name))) in names.enumerate() {
            let word = (NAMES + entry * NAME_ENTRY_BYTES) / 8;
            Text::<NAME_BYTES>::new(name).store(words, word);
            words.store(word + NAME_BYTES / 8, pair(scope as u32, place as u32));
        }
        set(header::COUNTERS, pair((Statistics::NAMES.len() + Exit::NAMES.len()) as u32, 0));
        Self { words, darts: 0, devices: 0 }
    }

    /// Names a DART with the physical address of its registers. Those past [`MAX_DARTS`] are left
    /// out.
    pub fn dart(&mut self, dart: DartId, registers: u64, name: &str) {
        if self.darts as usize >= MAX_DARTS {
            return;
        }
        let word = (DARTS + self.darts as usize * DART_BYTES) / 8;
        self.words.store(word, pair(dart.index() as u32, 0));
        self.words.store(word + 1, registers);
        Text::<48>::new(name).store(self.words, word + 2);
        self.darts += 1;
    }

    /// Names a device behind a DART. Those past [`MAX_DEVICES`] are left out: their records show
    /// numbers only.
    pub fn device(&mut self, requester: u32, dart: DartId, stream: StreamId, name: &str) {
        if self.devices as usize >= MAX_DEVICES {
            return;
        }
        let word = (DEVICES + self.devices as usize * DEVICE_BYTES) / 8;
        self.words
            .store(word, pair(requester, dart.index() as u32 | (stream.index() as u32) << 16));
        Text::<56>::new(name).store(self.words, word + 1);
        self.devices += 1;
    }

    /// Makes the directory one: from here on readers find it.
    pub fn finish(self) {
        self.words.store(header::TABLES / 8, pair(self.darts, self.devices));
        self.words.store(header::MAGIC / 8, MAGIC);
    }
}

/// The DARTs that a directory names; entries that make no sense are left out.
pub fn darts(words: &impl Words) -> impl Iterator<Item = DartEntry> {
    let (count, _) = halves(words.load(header::TABLES / 8));
    (0..MAX_DARTS.min(count as usize)).filter_map(|index| {
        let word = (DARTS + index * DART_BYTES) / 8;
        let (dart, _) = halves(words.load(word));
        let dart = DartId::new(dart as usize)?;
        Some(DartEntry { dart, registers: words.load(word + 1), name: Text::load(words, word + 2) })
    })
}

/// The devices that a directory names; entries that make no sense are left out.
pub fn devices(words: &impl Words) -> impl Iterator<Item = DeviceEntry> {
    let (_, count) = halves(words.load(header::TABLES / 8));
    (0..MAX_DEVICES.min(count as usize)).filter_map(|index| {
        let word = (DEVICES + index * DEVICE_BYTES) / 8;
        let (requester, place) = halves(words.load(word));
        let dart = DartId::new((place & 0xffff) as usize)?;
        let stream = StreamId::new((place >> 16) as usize)?;
        Some(DeviceEntry { requester, dart, stream, name: Text::load(words, word + 1) })
    })
}

/// Whose a counter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Scope {
    Global = 0,
    Cpu = 1,
}

impl Scope {
    const ALL: [Self; 2] = [Self::Global, Self::Cpu];

    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Global => Statistics::NAMES,
            Self::Cpu => Exit::NAMES,
        }
    }
}

/// A counter with its value now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Its name.
    pub name: Text<NAME_BYTES>,
    /// The CPU whose it is, or `None` for the whole machine's.
    pub cpu: Option<usize>,
    /// Its value.
    pub value: u64,
}

/// Counters of each CPU that stand beside its head, by name and word.
const BESIDE_HEADS: [(&str, usize); 2] =
    [("events_left_out", FILTERED_WORD), ("snapshots_left_out", NO_SNAPSHOT_WORD)];

/// The largest number of counters that [`counters`] gives of a directory of `cpus` CPUs, whatever
/// stands in it.
pub const fn max_counters(cpus: usize) -> usize {
    (MAX_COUNTERS + BESIDE_HEADS.len()) * cpus
}

/// All counters of a directory, a counter of each CPU by itself. Names are read from the directory,
/// so a newer hypervisor's counters show as well.
pub fn counters(words: &impl Words, layout: Layout) -> impl Iterator<Item = Counter> {
    let (count, _) = halves(words.load(header::COUNTERS / 8));
    let entries = (0..MAX_COUNTERS.min(count as usize)).map(|index| {
        let word = (NAMES + index * NAME_ENTRY_BYTES) / 8;
        let (scope, place) = halves(words.load(word + NAME_BYTES / 8));
        (Text::load(words, word), scope, place as usize)
    });
    let sound =
        entries.filter(|(_, scope, place)| *scope <= Scope::Cpu as u32 && *place < BLOCK_COUNTERS);
    let left_out = BESIDE_HEADS.into_iter().flat_map(move |(name, word)| {
        (0..layout.cpus).map(move |cpu| Counter {
            name: Text::new(name),
            cpu: Some(cpu),
            value: words.load(layout.head_word(cpu) + word),
        })
    });
    let named = sound.flat_map(move |(name, scope, place)| {
        let is_global = scope == Scope::Global as u32;
        (0..if is_global { 1 } else { layout.cpus }).map(move |cpu| {
            let (block, cpu) = if is_global { (0, None) } else { (1 + cpu, Some(cpu)) };
            Counter { name, cpu, value: words.load(block_word(block) + place) }
        })
    });
    named.chain(left_out)
}

/// Puts the engine's counters where readers find them. A few dozen stores: once per trap into the
/// engine is fine.
pub fn publish_statistics(words: &impl Words, statistics: &Statistics) {
    for (place, value) in statistics.values().into_iter().enumerate() {
        words.store(block_word(0) + place, value);
    }
}

/// The words of the counters of `cpu`, in the order of [`Exit::NAMES`]; `None` where the layout has
/// no such CPU. No other CPU writes them, so counting takes no lock and no atomic addition.
pub fn cpu_counters(layout: Layout, cpu: usize) -> Option<Range<usize>> {
    let first = block_word(1 + cpu);
    (cpu < layout.cpus).then_some(first..first + Exit::NAMES.len())
}

fn block_word(block: usize) -> usize {
    (BLOCKS + block * BLOCK_BYTES) / 8
}

#[cfg(test)]
mod tests;
