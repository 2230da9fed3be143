//! Accesses of CPUs and devices, and what came of them.

use oche_types::addr::{Gfn, Hfn};
use oche_types::dart::stream::{DartId, StreamId};

/// Up to 32 bytes that travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    bytes: [u8; 32],
    length: u8,
}

impl Data {
    /// The first 32 of `bytes`.
    pub fn new(source: &[u8]) -> Self {
        let length = source.len().min(32);
        let mut bytes = [0; 32];
        bytes[..length].copy_from_slice(&source[..length]);
        Self { bytes, length: length as u8 }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Something that a CPU or a device does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A guest's CPU loads `length` bytes.
    Load {
        /// Which CPU.
        cpu: usize,
        /// The guest page.
        page: Gfn,
        /// First byte in the page.
        offset: usize,
        /// Bytes, at most 32 and inside the page.
        length: usize,
    },
    /// A guest's CPU stores.
    Store {
        /// Which CPU.
        cpu: usize,
        /// The guest page.
        page: Gfn,
        /// First byte in the page.
        offset: usize,
        /// What.
        data: Data,
    },
    /// A device reads `length` bytes.
    Read {
        /// Its DART.
        dart: DartId,
        /// Its stream.
        stream: StreamId,
        /// The IOVA of the first byte.
        iova: u64,
        /// Bytes, at most 32 and inside a page.
        length: usize,
    },
    /// A device writes.
    Write {
        /// Its DART.
        dart: DartId,
        /// Its stream.
        stream: StreamId,
        /// The IOVA of the first byte.
        iova: u64,
        /// What; it stays inside a page.
        data: Data,
    },
}

/// What came of an access that ran in the middle of the engine's work.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// Of a CPU's.
    Cpu(CpuResult),
    /// Of a device's.
    Device(DeviceResult),
}

/// What came of a device's access.
#[derive(Clone, Copy, Debug)]
pub enum DeviceResult {
    /// Refused.
    Fault,
    /// Accepted: its translation is fixed, its bytes travel later.
    Accepted {
        /// Names the transfer.
        id: u64,
        /// The page of host memory that it goes to.
        at: Hfn,
        /// The guest page that CPUs found there at that moment.
        owner: Option<Gfn>,
    },
}

/// What came of a CPU's access.
#[derive(Clone, Copy, Debug)]
pub enum CpuResult {
    /// The bytes that a load saw.
    Loaded(Data),
    /// A store went through.
    Stored,
    /// A store met a page that is only to be read: it traps.
    ReadOnly,
    /// An access met a page to which all accesses trap.
    NoAccess,
    /// The page is broken: the CPU tries again until it is made.
    Broken,
    /// There is no such page.
    NoMemory,
}
