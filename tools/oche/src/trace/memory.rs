//! The trace in a guest's memory: a RAM file that QEMU shares with us, read while the guest runs.

// UNSAFETY: memory that another process writes has no owner here; it is read only through atomic
// loads.
#![expect(unsafe_code, reason = "atomic loads from a shared mapping")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use memmap2::{MmapOptions, MmapRaw};
use oche_trace::directory::{
    self, ALIGNMENT, Counter, DirectoryError, Layout, MAGIC, PREVIOUS_MAGIC,
};
use oche_trace::words::Words;

use super::description::plain;

/// Directory and rings of a running (or stopped) Oche, mapped read-only.
#[derive(Debug)]
pub struct TraceMemory {
    mapping: MmapRaw,
    is_writable: bool,
    offset: u64,
    layout: Layout,
}

impl TraceMemory {
    /// Looks for a trace directory in `ram` and maps it with its rings. `None`: there is none yet.
    ///
    /// # Errors
    ///
    /// The file cannot be read or mapped, or the directory is damaged or of another version.
    pub fn find(ram: &File) -> Result<Option<Self>> {
        Self::find_with(ram, MAGIC, false)
    }

    /// Looks for what the boot before left.
    ///
    /// # Errors
    ///
    /// As for [`TraceMemory::find`].
    pub fn find_previous(ram: &File) -> Result<Option<Self>> {
        Self::find_with(ram, PREVIOUS_MAGIC, false)
    }

    /// The same, and what is stored goes into the memory.
    ///
    /// # Errors
    ///
    /// As for [`TraceMemory::find`]; the file must be open for writing, too.
    pub fn find_writable(ram: &File) -> Result<Option<Self>> {
        Self::find_with(ram, MAGIC, true)
    }

    fn find_with(ram: &File, magic: u64, is_writable: bool) -> Result<Option<Self>> {
        let length = ram.metadata().context("looking at the RAM file's size")?.len();
        let mut offset = 0;
        while offset < length {
            // Reading, not mapping: a hole in a sparse file stays one.
            let mut first = [0; 8];
            let is_whole =
                ram.read_at(&mut first, offset).context("reading the RAM file")? == first.len();
            if is_whole && u64::from_le_bytes(first) == magic {
                return Self::map(ram, offset, length - offset, is_writable);
            }
            offset = offset.saturating_add(ALIGNMENT);
        }
        Ok(None)
    }

    fn map(ram: &File, offset: u64, available: u64, is_writable: bool) -> Result<Option<Self>> {
        let available = usize::try_from(available).unwrap_or(usize::MAX);
        let mut options = MmapOptions::new();
        options.offset(offset).len(available);
        let whole = if is_writable { options.map_raw(ram) } else { options.map_raw_read_only(ram) };
        let mut memory = Self {
            mapping: whole.context("mapping the trace directory")?,
            is_writable,
            offset,
            layout: Layout::new(1, 0),
        };
        let layout = match memory.load(0) {
            PREVIOUS_MAGIC => Layout::read_previous(&memory, available),
            _ => Layout::read(&memory, available),
        };
        match layout {
            Ok(layout) => {
                memory.layout = layout;
                Ok(Some(memory))
            }
            // It was withdrawn between the look and the map.
            Err(DirectoryError::Absent) => Ok(None),
            Err(error) => bail!("at offset {offset:#x} of the RAM file: {error}"),
        }
    }

    /// The places of its parts.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The directory's offset in the RAM file, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// All counters as they are now.
    pub fn counters(&self) -> Vec<Counter> {
        directory::counters(self, self.layout).collect()
    }
}

impl TraceMemory {
    /// The word at `index`, if it lies inside the mapping.
    fn word(&self, index: usize) -> Option<*mut u64> {
        let end = index.checked_add(1)?.checked_mul(8)?;
        let word = self.mapping.as_mut_ptr().wrapping_add(index * 8).cast::<u64>();
        (end <= self.mapping.len()).then_some(word)
    }
}

impl Words for TraceMemory {
    fn load(&self, index: usize) -> u64 {
        let Some(word) = self.word(index) else { return 0 };
        // SAFETY: the word lies inside the mapping, which lives as long as `self` and starts on a
        // page, so it is aligned; it is only loaded from, atomically, and 8-byte atomic loads may
        // be of read-only memory.
        let word = unsafe { AtomicU64::from_ptr(word) };
        u64::from_le(word.load(Ordering::Acquire))
    }

    fn store(&self, index: usize, value: u64) {
        let Some(word) = self.word(index).filter(|_| self.is_writable) else { return };
        // SAFETY: as for `load`, and the mapping may be written.
        let word = unsafe { AtomicU64::from_ptr(word) };
        word.store(value.to_le(), Ordering::Release);
    }
}

/// The counters of the Oche whose memory `ram` is, by name: the machine's own, and the CPUs' both
/// as their sum (`exits_smc`) and one by one (`exits_smc[2]`).
///
/// # Errors
///
/// The file cannot be read, or no trace directory is in it.
pub fn read_statistics(ram: &Path) -> Result<Vec<(String, u64)>> {
    let file =
        File::open(ram).with_context(|| format!("opening the RAM file {}", ram.display()))?;
    let Some(memory) = TraceMemory::find(&file)? else {
        bail!("{}: no trace directory in it (is Oche running there?)", ram.display());
    };
    Ok(by_name(&memory.counters()))
}

/// Counters by name, with the sums of those that each CPU has.
pub fn by_name(counters: &[Counter]) -> Vec<(String, u64)> {
    let mut named: Vec<(String, u64)> = Vec::new();
    let mut each: Vec<(String, u64)> = Vec::new();
    for counter in counters {
        let name = plain(counter.name.as_str());
        let Some(cpu) = counter.cpu else {
            named.push((name, counter.value));
            continue;
        };
        each.push((format!("{name}[{cpu}]"), counter.value));
        match named.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum = sum.wrapping_add(counter.value),
            None => named.push((name, counter.value)),
        }
    }
    named.append(&mut each);
    named
}

#[cfg(test)]
pub(super) mod tests;
