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
//! 0x10000 ring of CPU 0, ring of CPU 1, ...  (place and length: in the header)
//! ```

mod counters;
mod layout;

use oche_types::dart::stream::{DartId, MAX_DARTS, StreamId};

use crate::directory::counters::Scope;
use crate::directory::layout::{
    DART_BYTES, DARTS, DEVICE_BYTES, DEVICES, NAME_ENTRY_BYTES, NAMES, header,
};
use crate::record::RECORD_BYTES;
use crate::statistics::{Exit, NAME_BYTES, Statistics};
use crate::words::{Text, Words, halves, pair};

pub use counters::{
    Counter, ENGINE_COUNTERS, counters, cpu_counters, max_counters, store_statistics,
};
pub use layout::{
    ALIGNMENT, CONTROL, DESCRIPTION_BYTES, DIRECTORY_BYTES, DirectoryError, Layout, MAGIC,
    MAX_COUNTERS, MAX_CPUS, MAX_DEVICES, PREVIOUS_MAGIC, VERSION,
};
pub(crate) use layout::{FILTERED_WORD, NO_SNAPSHOT_WORD};

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

/// The machine as a whole, as the directory describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The board's name.
    pub board: Text<32>,
    /// Oche's version, commit and build, as [`oche_types::identity::Identity`] prints them; empty
    /// in traces of before it was recorded.
    pub release: Text<64>,
    /// `CNTFRQ_EL0`, in Hz.
    pub counter_hz: u64,
    /// `CNTPCT_EL0` when the directory was written.
    pub start_ticks: u64,
    /// Nanoseconds since 1970 UTC at that moment, where a clock was set.
    pub wall_clock_nanoseconds: Option<u64>,
}

impl Machine {
    /// Reads it from the directory at the start of `words`.
    pub fn read(words: &impl Words) -> Self {
        let wall_clock = words.load(header::WALL_CLOCK / 8);
        Self {
            board: Text::load(words, header::BOARD / 8),
            release: Text::load(words, header::RELEASE / 8),
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
        machine.release.store(words, header::RELEASE / 8);
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

#[cfg(test)]
mod tests;
