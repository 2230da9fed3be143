//! Where things are in the directory.

use oche_types::dart::stream::MAX_DARTS;

use crate::record::RECORD_BYTES;
use crate::statistics::{Exit, NAME_BYTES, Statistics};
use crate::words::{Words, halves};

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
pub(super) const BLOCK_COUNTERS: usize = 64;
/// Bytes from the start up to the counters: what describes the trace and does not change while it
/// runs, but for the heads.
pub const DESCRIPTION_BYTES: usize = NAMES;

/// Offset of the control block, in bytes: see [`crate::control`].
pub const CONTROL: usize = 0x9000;

/// From the word that counts a CPU's records to the one that counts what its filter left out.
pub(crate) const FILTERED_WORD: usize = 1;
/// The same for the pages of which no snapshot could be taken.
pub(crate) const NO_SNAPSHOT_WORD: usize = 2;

pub(super) const HEADS: usize = 0x100;
const HEAD_BYTES: usize = 64;
pub(super) const DARTS: usize = 0x900;
pub(super) const DART_BYTES: usize = 64;
pub(super) const DEVICES: usize = 0x1100;
pub(super) const DEVICE_BYTES: usize = 64;
pub(super) const NAMES: usize = 0x3100;
pub(super) const NAME_ENTRY_BYTES: usize = 32;
pub(super) const BLOCKS: usize = 0x4100;
pub(super) const BLOCK_BYTES: usize = BLOCK_COUNTERS * 8;

/// Byte offsets in the header.
pub(super) mod header {
    pub(crate) const MAGIC: usize = 0x00;
    /// u32 version, u32 bytes of the directory.
    pub(crate) const VERSION: usize = 0x08;
    /// u64 bytes of directory and rings.
    pub(crate) const TOTAL: usize = 0x10;
    /// u32 CPUs, u32 bytes of a record.
    pub(crate) const CPUS: usize = 0x18;
    /// u64 offset of CPU 0's ring.
    pub(crate) const RING_BASE: usize = 0x20;
    /// u64 bytes from one CPU's ring to the next one's.
    pub(crate) const RING_STRIDE: usize = 0x28;
    /// u64 records in a ring: a power of two, or 0 where events are not recorded.
    pub(crate) const RING_RECORDS: usize = 0x30;
    /// u64 CNTFRQ_EL0, in Hz.
    pub(crate) const COUNTER_HZ: usize = 0x38;
    /// u64 CNTPCT_EL0 when the directory was written.
    pub(crate) const START: usize = 0x40;
    /// u64 nanoseconds since 1970 UTC at `START`, 0 where not known.
    pub(crate) const WALL_CLOCK: usize = 0x48;
    /// u32 DARTs, u32 devices.
    pub(crate) const TABLES: usize = 0x50;
    /// u32 counter names, u32 0.
    pub(crate) const COUNTERS: usize = 0x58;
    /// `name[32]` of the board.
    pub(crate) const BOARD: usize = 0x60;
    /// `name[64]` of the Oche that runs; zeros in traces of before it was recorded.
    pub(crate) const RELEASE: usize = 0x80;
    /// Where the header's fields end; 0 from here to 0x100.
    pub(crate) const END: usize = 0xc0;
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
    pub(super) cpus: usize,
    pub(super) ring_records: u64,
    pub(super) ring_base: usize,
    pub(super) ring_stride: usize,
    pub(super) total_bytes: usize,
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
        // Four gigabytes a ring is the most that 32-bit sequence numbers distinguish with a wide
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

    /// The same of the directory that [`keep_previous`](super::keep_previous) put there.
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
    pub(crate) fn head_word(&self, cpu: usize) -> usize {
        (HEADS + cpu * HEAD_BYTES) / 8
    }

    /// The first word of the ring of `cpu`.
    pub(crate) fn ring_word(&self, cpu: usize) -> usize {
        (self.ring_base + cpu * self.ring_stride) / 8
    }
}
