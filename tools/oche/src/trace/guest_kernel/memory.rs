//! Guest-physical memory, as the readers of a kernel's structures see it.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use rustix::fs::SeekFrom;

/// Guest-physical memory.
pub trait GuestMemory {
    /// Fills `into` with the bytes from the guest-physical `address` on. False: they are not all
    /// there, and what `into` holds is no memory.
    fn read(&self, address: u64, into: &mut [u8]) -> bool;

    /// The guest-physical addresses that may hold anything but zeros, in bytes.
    fn ranges(&self) -> Vec<Range<u64>>;
}

/// A file that is the guest's RAM, such as QEMU shares with us.
#[derive(Debug)]
pub struct RamFile<'a> {
    file: &'a File,
    base: u64,
    length: u64,
}

/// Ranges of a sparse file that are looked at; what follows counts as one.
const MAX_RANGES: usize = 1 << 16;

impl<'a> RamFile<'a> {
    /// The RAM in `file`, which begins at the guest-physical address `base`: `0x4000_0000` on
    /// QEMU's machine `virt`, `0x8_0000_0000` on an M1.
    ///
    /// # Errors
    ///
    /// The file's size cannot be had.
    pub fn new(file: &'a File, base: u64) -> Result<Self> {
        let length = file.metadata().context("looking at the RAM file's size")?.len();
        Ok(Self { file, base, length: length.min(u64::MAX - base) })
    }
}

impl GuestMemory for RamFile<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let Some(offset) = address.checked_sub(self.base) else { return false };
        let end = offset.checked_add(into.len() as u64);
        // Reading, not mapping: a hole in a sparse file stays one.
        end.is_some_and(|end| end <= self.length) && self.file.read_exact_at(into, offset).is_ok()
    }

    fn ranges(&self) -> Vec<Range<u64>> {
        let mut found = Vec::new();
        let mut from = 0;
        while from < self.length {
            let start = match rustix::fs::seek(self.file, SeekFrom::Data(from)) {
                Ok(start) => start.max(from),
                // Nothing but a hole follows.
                Err(rustix::io::Errno::NXIO) => break,
                // A file system that does not know of holes.
                Err(_) => from,
            };
            let end = match rustix::fs::seek(self.file, SeekFrom::Hole(start)) {
                Ok(end) if end > start && found.len() < MAX_RANGES => end.min(self.length),
                _ => self.length,
            };
            if start >= self.length {
                break;
            }
            found.push(self.base + start..self.base + end);
            from = end;
        }
        found
    }
}

/// Words of memory, little-endian as the guest's kernel writes them.
#[derive(Clone, Copy)]
pub(super) struct Memory<'a>(pub(super) &'a dyn GuestMemory);

impl Memory<'_> {
    /// The `length` bytes at `address`. `length` is bounded by the caller.
    pub(super) fn bytes(self, address: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.0.read(address, &mut bytes).then_some(bytes)
    }

    pub(super) fn word(self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.0.read(address, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }
}

/// The `u16` at `index` of the words in `bytes`.
pub(super) fn half(bytes: &[u8], index: usize) -> Option<u16> {
    let at = index.checked_mul(2)?;
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// The `u32` at byte `at` of `bytes`.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The `u64` at byte `at` of `bytes`.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}
