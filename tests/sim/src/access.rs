//! Accesses of CPUs and devices, and their outcomes.

use oche_types::addr::{Gfn, Hfn};
use oche_types::dart::stream::{DartId, StreamId};

/// Up to 32 bytes of data.
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

/// An access that a CPU or a device makes.
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
        /// The bytes.
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
        /// The bytes; they stay inside a page.
        data: Data,
    },
}

/// The outcome of an access that ran during the engine's work.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// The outcome of a CPU's access.
    Cpu(CpuResult),
    /// The outcome of a device's access.
    Device(DeviceResult),
}

/// The outcome of a device's access.
#[derive(Clone, Copy, Debug)]
pub enum DeviceResult {
    /// The access was refused.
    Fault,
    /// The access was accepted: its translation is fixed, and its bytes are transferred later.
    Accepted {
        /// The number of the transfer.
        id: u64,
        /// The host page.
        at: Hfn,
        /// The guest page that was in the host page at that moment.
        owner: Option<Gfn>,
    },
}

/// The outcome of a CPU's access.
#[derive(Clone, Copy, Debug)]
pub enum CpuResult {
    /// The bytes that a load returned.
    Loaded(Data),
    /// A store was carried out.
    Stored,
    /// A store to a read-only page, which traps.
    ReadOnly,
    /// An access to a page to which all accesses trap.
    NoAccess,
    /// The page is broken: the CPU retries until it is remapped.
    Broken,
    /// There is no such page.
    NoMemory,
}
