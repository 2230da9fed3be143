//! The SMMU's actual configuration, read from outside Oche: its registers through QEMU, its tables
//! through RAM.
//!
//! Nothing here takes Oche's word, and nothing here is shared with Oche's own driver. Source of
//! every field: Arm IHI 0070, "Arm System Memory Management Unit Architecture Specification, SMMU
//! architecture version 3", section 5 (stream table entries, context descriptors) and 6.3
//! (registers); Arm DDI 0487, D8 (translation table descriptors).

use std::ops::Range;

use anyhow::{Result, bail};

use crate::qemu::memory::GuestRam;
use crate::qemu::monitor::Monitor;

/// The address of the SMMU on QEMU's virt machine. Source: the machine's own device tree, node
/// `smmuv3`.
const SMMU: u64 = 0x0905_0000;
const SMMU_CR0: u64 = SMMU + 0x20;
const SMMU_STRTAB_BASE: u64 = SMMU + 0x80;
const SMMU_STRTAB_BASE_CFG: u64 = SMMU + 0x88;

/// A frame, the only page size that may be seen, in bytes.
const FRAME: u64 = 16 << 10;

/// How many stream table entries are looked at: PCI requesters of bus 0 have ids below this.
const STREAMS: u64 = 256;

/// A survey reports at most so many different violations.
const MAX_VIOLATIONS: usize = 16;

/// Physical memory to read tables from.
pub trait Physical {
    /// Copies bytes from a physical address; `None` if that is not RAM.
    fn read(&self, address: u64, buffer: &mut [u8]) -> Option<()>;
}

impl Physical for GuestRam {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Option<()> {
        GuestRam::read(self, address, buffer)
    }
}

/// The owners of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// RAM that the guest's kernel lists.
    pub guest: Vec<Range<u64>>,
    /// RAM that is Oche's frame pool, where migrated pages lie.
    pub pool: Option<Range<u64>>,
}

/// The SMMU's registers that hold the address of its tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamTableRegisters {
    /// `SMMU_CR0`.
    pub control: u32,
    /// `SMMU_STRTAB_BASE`.
    pub table_base: u64,
    /// `SMMU_STRTAB_BASE_CFG`.
    pub table_configuration: u32,
}

impl StreamTableRegisters {
    /// Reads them through QEMU's monitor.
    ///
    /// # Errors
    ///
    /// QEMU is gone, or has no SMMU there.
    pub fn read(monitor: &mut Monitor) -> Result<Self> {
        let low = monitor.read_register(SMMU_STRTAB_BASE)?;
        let high = monitor.read_register(SMMU_STRTAB_BASE + 4)?;
        Ok(Self {
            control: monitor.read_register(SMMU_CR0)?,
            table_base: u64::from(low) | u64::from(high) << 32,
            table_configuration: monitor.read_register(SMMU_STRTAB_BASE_CFG)?,
        })
    }

    fn is_enabled(self) -> bool {
        self.control & 1 != 0
    }
}

/// The result of one or several readings.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Survey {
    /// How often it was looked.
    pub looks: u64,
    /// Streams that translate, in the look that had most.
    pub most_streams: u64,
    /// Context descriptors checked, over all looks.
    pub contexts: u64,
    /// Those whose granule was 16K.
    pub contexts_of_16k: u64,
    /// Tables walked.
    pub tables: u64,
    /// Frames named that are the guest's own, aligned, at home.
    pub frames_of_guest: u64,
    /// Frames named that lie in Oche's pool.
    pub frames_of_pool: u64,
    /// Frames named that are not RAM.
    pub frames_of_devices: u64,
    /// Violations, each reported once.
    pub violations: Vec<String>,
}

impl Survey {
    /// Looks once, with the CPUs stopped meanwhile so that no table changes under the walk.
    ///
    /// # Errors
    ///
    /// QEMU is gone.
    pub fn look(
        &mut self,
        monitor: &mut Monitor,
        memory: &GuestRam,
        owners: &Owners,
    ) -> Result<()> {
        monitor.stop()?;
        let registers = StreamTableRegisters::read(monitor);
        if let Ok(registers) = registers {
            self.add(registers, memory, owners);
        }
        // Whatever was found, the guest goes on.
        monitor.resume()?;
        registers.map(|_| ())
    }

    /// Walks everything from the registers on.
    pub fn add(
        &mut self,
        registers: StreamTableRegisters,
        memory: &impl Physical,
        owners: &Owners,
    ) {
        self.looks += 1;
        if !registers.is_enabled() {
            self.violate("the SMMU is off: every device reaches all memory".into());
            return;
        }
        let mut streams = 0;
        for stream in 0..STREAMS {
            match stream_entry(registers, memory, stream) {
                Ok(Some(entry)) => {
                    streams += u64::from(self.add_stream(stream, &entry, memory, owners))
                }
                Ok(None) => {}
                Err(error) => self.violate(format!("stream {stream:#x}: {error}")),
            }
        }
        self.most_streams = self.most_streams.max(streams);
    }

    /// Gives whether the stream translates.
    fn add_stream(
        &mut self,
        stream: u64,
        entry: &[u64; 8],
        memory: &impl Physical,
        owners: &Owners,
    ) -> bool {
        let first = entry[0];
        if first & 1 == 0 {
            return false;
        }
        match first >> 1 & 7 {
            // Abort: nothing passes.
            0..=3 => return false,
            5 => {}
            4 => {
                self.violate(format!("stream {stream:#x} bypasses translation"));
                return false;
            }
            _ => {
                self.violate(format!("stream {stream:#x} uses stage 2"));
                return false;
            }
        }
        let contexts = first >> 6 & ((1 << 46) - 1);
        let count_log2 = first >> 59;
        if count_log2 != 0 {
            self.violate(format!("stream {stream:#x} has substreams"));
        }
        let Some(context) = read_words::<8>(memory, contexts << 6) else {
            self.violate(format!("stream {stream:#x}: its context descriptor is not in RAM"));
            return true;
        };
        self.add_context(stream, &context, memory, owners);
        true
    }

    fn add_context(
        &mut self,
        stream: u64,
        context: &[u64; 8],
        memory: &impl Physical,
        owners: &Owners,
    ) {
        let first = context[0];
        if first >> 31 & 1 == 0 {
            // Invalid: every access faults.
            return;
        }
        self.contexts += 1;
        let granule = first >> 6 & 3;
        if granule == 2 {
            self.contexts_of_16k += 1;
        } else {
            let name =
                ["4K", "64K", "16K", "a reserved"].get(granule as usize).copied().unwrap_or("?");
            self.violate(format!("stream {stream:#x} translates with {name} granule"));
            return;
        }
        if first & 0x3f != 28 {
            self.violate(format!("stream {stream:#x} has T0SZ {} instead of 28", first & 0x3f));
            return;
        }
        if first >> 14 & 1 != 0 {
            return;
        }
        if first >> 30 & 1 == 0 {
            self.violate(format!("stream {stream:#x} translates upper addresses too"));
        }
        let root = context[1] & 0x000f_ffff_ffff_fff0;
        self.walk(stream, root, memory, owners);
    }

    /// Two levels of 2048 entries: 32 MiB each, then 16 KiB each.
    fn walk(&mut self, stream: u64, root: u64, memory: &impl Physical, owners: &Owners) {
        let Some(upper) = self.table(stream, root, memory, owners) else { return };
        for descriptor in upper {
            match descriptor & 3 {
                3 => {
                    let Some(lower) = self.table(stream, address_of(descriptor), memory, owners)
                    else {
                        continue;
                    };
                    for descriptor in lower {
                        match descriptor & 3 {
                            3 => self.add_leaf(stream, address_of(descriptor), FRAME, owners),
                            1 => self.violate(format!(
                                "stream {stream:#x}: a reserved descriptor {descriptor:#x}"
                            )),
                            _ => {}
                        }
                    }
                }
                1 => self.add_leaf(stream, address_of(descriptor), 2048 * FRAME, owners),
                _ => {}
            }
        }
    }

    fn table(
        &mut self,
        stream: u64,
        at: u64,
        memory: &impl Physical,
        owners: &Owners,
    ) -> Option<Vec<u64>> {
        if !at.is_multiple_of(FRAME) {
            self.violate(format!("stream {stream:#x}: a table at {at:#x} is not aligned"));
            return None;
        }
        if owners.guest.iter().any(|range| range.start < at + FRAME && at < range.end) {
            self.violate(format!(
                "stream {stream:#x}: a table at {at:#x} lies in the guest's memory"
            ));
        }
        let mut bytes = vec![0; FRAME as usize];
        if memory.read(at, &mut bytes).is_none() {
            self.violate(format!("stream {stream:#x}: a table at {at:#x} is not in RAM"));
            return None;
        }
        self.tables += 1;
        Some(bytes.chunks_exact(8).map(word).collect())
    }

    fn add_leaf(&mut self, stream: u64, at: u64, bytes: u64, owners: &Owners) {
        let end = at + bytes;
        let is_in = |range: &Range<u64>| range.start <= at && end <= range.end;
        let touches = |range: &Range<u64>| range.start < end && at < range.end;
        if owners.pool.as_ref().is_some_and(is_in) {
            self.frames_of_pool += 1;
        } else if is_covered(at..end, &owners.guest) {
            self.frames_of_guest += 1;
        } else if owners.pool.as_ref().is_some_and(touches) || owners.guest.iter().any(touches) {
            self.violate(format!(
                "stream {stream:#x}: the frame {at:#x} is only in part the guest's"
            ));
        } else if at < super::RAM_BASE {
            self.frames_of_devices += 1;
        } else {
            self.violate(format!(
                "stream {stream:#x}: the frame {at:#x} is neither the guest's nor the pool's"
            ));
        }
    }

    fn violate(&mut self, what: String) {
        if self.violations.len() < MAX_VIOLATIONS && !self.violations.contains(&what) {
            self.violations.push(what);
        }
    }

    /// Fails unless something was looked at and nothing was wrong.
    ///
    /// # Errors
    ///
    /// The first violation, or that there was nothing to see: a check that saw nothing has shown
    /// nothing.
    pub fn judge(&self) -> Result<()> {
        if let Some(first) = self.violations.first() {
            bail!("the SMMU, seen from outside: {first} ({} such things)", self.violations.len());
        }
        if self.contexts == 0 || self.frames_of_guest + self.frames_of_pool == 0 {
            bail!("the SMMU, seen from outside: in {} looks nothing was mapped", self.looks);
        }
        Ok(())
    }
}

/// Finds a stream's entry in a linear or a two-level stream table; `None` if the table has none.
fn stream_entry(
    registers: StreamTableRegisters,
    memory: &impl Physical,
    stream: u64,
) -> Result<Option<[u64; 8]>> {
    let base = registers.table_base & 0x000f_ffff_ffff_ffc0;
    let configuration = registers.table_configuration;
    let size_log2 = configuration & 0x3f;
    if size_log2 < 32 && stream >> size_log2 != 0 {
        return Ok(None);
    }
    let at = match configuration >> 16 & 3 {
        0 => base + stream * 64,
        1 => {
            let split = configuration >> 6 & 0x1f;
            let Some([descriptor]) = read_words::<1>(memory, base + (stream >> split) * 8) else {
                bail!("the stream table is not in RAM");
            };
            let span = descriptor & 0x1f;
            let index = stream & ((1 << split) - 1);
            if span == 0 || index >= 1 << (span - 1) {
                return Ok(None);
            }
            (descriptor & 0x000f_ffff_ffff_ffc0) + index * 64
        }
        format => bail!("the stream table has format {format}, which is reserved"),
    };
    let Some(entry) = read_words::<8>(memory, at) else { bail!("its entry is not in RAM") };
    Ok(Some(entry))
}

fn read_words<const COUNT: usize>(memory: &impl Physical, at: u64) -> Option<[u64; COUNT]> {
    let mut bytes = vec![0; COUNT * 8];
    memory.read(at, &mut bytes)?;
    let words: Vec<u64> = bytes.chunks_exact(8).map(word).collect();
    words.try_into().ok()
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Bits 47:14, as a descriptor of the 16K granule has them.
fn address_of(descriptor: u64) -> u64 {
    descriptor & 0x0000_ffff_ffff_c000
}

/// Whether ranges, adjoining ones together, cover all of a range.
fn is_covered(wanted: Range<u64>, ranges: &[Range<u64>]) -> bool {
    let mut at = wanted.start;
    while at < wanted.end {
        match ranges.iter().find(|range| range.contains(&at)) {
            Some(range) => at = range.end,
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests;
