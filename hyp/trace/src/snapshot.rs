//! Snapshots of buffers: which pages' bytes to take, and how to put what was recorded of them
//! together again.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use oche_types::addr::Gfn;
use oche_types::event::{Event, Kind, Place};

use crate::control::Control;
use crate::record::{DATA_BYTES, Record};

/// Pages of which one trap takes bytes; those beyond it are counted and left out.
pub const MAX_PAGES: usize = 32;
/// Mappings that are remembered as writable, until they are unmapped; those beyond it give no
/// snapshot.
const MAX_WRITABLE: usize = 1 << 14;

/// A page of which bytes are to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// On behalf of which stream.
    pub at: Place,
    /// The guest page.
    pub page: Gfn,
    /// Whether it was unmapped after the device could write it.
    pub is_written: bool,
}

/// Chooses pages from what happens in a trap.
#[derive(Debug)]
pub struct Snapshots {
    wanted: VecDeque<Wanted>,
    /// Mappings that devices may write, ascending.
    writable: Vec<u64>,
    left_out: u64,
}

impl Default for Snapshots {
    /// With room for all that is ever kept: nothing is allocated later.
    fn default() -> Self {
        Self {
            wanted: VecDeque::with_capacity(MAX_PAGES),
            writable: Vec::with_capacity(MAX_WRITABLE),
            left_out: 0,
        }
    }
}

impl Snapshots {
    /// Takes note of `event`, as far as `control` wants bytes of it.
    pub fn note(&mut self, control: &Control, event: &Event) {
        match *event {
            Event::Map { at, page, permission, .. } if is_chosen(control, at) => {
                if permission.write {
                    self.remember(at);
                }
                if permission.read {
                    self.want(Wanted { at, page, is_written: false });
                }
            }
            Event::Permission { at, permission, .. }
                if permission.write && is_chosen(control, at) =>
            {
                self.remember(at);
            }
            Event::Unmap { at, page } if self.remove(at) && is_chosen(control, at) => {
                self.want(Wanted { at, page, is_written: true });
            }
            _ => {}
        }
    }

    /// The next page of which to take bytes, oldest first.
    pub fn take(&mut self) -> Option<Wanted> {
        self.wanted.pop_front()
    }

    /// Pages that were chosen and left out, since the start.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Forgets which mappings are writable: snapshots were turned off, and unmaps will go by
    /// unseen.
    pub fn forget(&mut self) {
        self.writable.clear();
        self.wanted.clear();
    }

    fn want(&mut self, wanted: Wanted) {
        if self.wanted.len() < MAX_PAGES {
            self.wanted.push_back(wanted);
        } else {
            self.left_out = self.left_out.wrapping_add(1);
        }
    }

    fn remember(&mut self, at: Place) {
        match self.writable.binary_search(&key(at)) {
            Ok(_) => {}
            Err(place) if self.writable.len() < MAX_WRITABLE => {
                self.writable.insert(place, key(at))
            }
            Err(_) => self.left_out = self.left_out.wrapping_add(1),
        }
    }

    /// Forgets that the mapping is writable. Whether it was known to be.
    fn remove(&mut self, at: Place) -> bool {
        let place = self.writable.binary_search(&key(at));
        place.map(|place| self.writable.remove(place)).is_ok()
    }
}

/// Whether snapshots are taken at all.
pub fn are_wanted(control: &Control) -> bool {
    control.snapshot_bytes != 0 && control.events.kinds() >> Kind::Snapshot.number() & 1 != 0
}

fn is_chosen(control: &Control, at: Place) -> bool {
    control.snapshots.has_stream(at.dart, at.stream)
        && control.snapshots.overlaps(at.iova.iova(), oche_types::addr::PAGE_BYTES as u64)
}

fn key(at: Place) -> u64 {
    (at.dart.index() as u64) << 40 | (at.stream.index() as u64) << 32 | u64::from(at.iova.0)
}

/// Calls `record` for the events that carry the first `bytes` bytes of a page, whose 64-bit words
/// `load` gives.
pub fn events(
    wanted: &Wanted,
    bytes: u16,
    load: impl Fn(usize) -> u64,
    mut record: impl FnMut(&Event),
) {
    let Wanted { at, page, is_written } = *wanted;
    record(&Event::Snapshot { at, page, is_written, bytes });
    for first in (0..usize::from(bytes).div_ceil(8)).step_by(2) {
        let word = |index: usize| {
            // The bytes behind the end are not the reader's business.
            let valid = usize::from(bytes).saturating_sub(index * 8).min(8) as u32;
            match valid {
                0 => 0,
                8 => load(index),
                valid => load(index) & (u64::MAX >> (64 - 8 * valid)),
            }
        };
        record(&Event::Data { words: [word(first), word(first + 1)] });
    }
}

/// How many bytes follow `record` on its CPU, if it is of a kind that any follow.
pub fn bytes_behind(record: &Record) -> Option<usize> {
    match record.event()? {
        Event::Snapshot { bytes, .. } => Some(usize::from(bytes)),
        Event::Watch { bytes, .. } if bytes != 0 => Some(usize::from(bytes)),
        Event::Callers { frames, .. } if frames > 1 => Some((usize::from(frames) - 1) * 8),
        Event::CallChain { frames, .. } if frames > 2 => Some((usize::from(frames) - 2) * 4),
        // Recordings made before these had any say so.
        Event::RedZone { .. } if record.detail() != 0 => {
            Some(usize::from(record.detail()).min(DATA_BYTES))
        }
        _ => None,
    }
}

/// A snapshot, a watched access or a red zone that was hit, with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The [`Kind::Snapshot`], [`Kind::Watch`] or [`Kind::RedZone`] record.
    pub record: Record,
    /// The page's first bytes, the access's, or those from the first one on that was hit.
    pub bytes: Vec<u8>,
}

/// Puts snapshots together from records in the order in which a trace gives them, CPUs mixed.
#[derive(Debug, Default)]
pub struct Assembler {
    /// Per CPU, what has begun: bytes so far, and the next record's number.
    begun: BTreeMap<u8, (Taken, u32)>,
    /// Snapshots of which a part is missing.
    pub incomplete: u64,
}

impl Assembler {
    /// Takes `record`, and returns the snapshot that it completes.
    pub fn take(&mut self, record: &Record) -> Option<Taken> {
        let cpu = record.cpu();
        if let Some(bytes) = bytes_behind(record) {
            let taken = Taken { record: *record, bytes: Vec::with_capacity(bytes) };
            let old = self.begun.insert(cpu, (taken, record.sequence().wrapping_add(1)));
            self.incomplete += u64::from(old.is_some());
            return None;
        }
        let (mut taken, next) = self.begun.remove(&cpu)?;
        let (Some(Event::Data { words }), true) = (record.event(), record.sequence() == next)
        else {
            self.incomplete += 1;
            return None;
        };
        let length = bytes_behind(&taken.record).unwrap_or(0);
        let left = length.saturating_sub(taken.bytes.len()).min(DATA_BYTES);
        taken.bytes.extend(words.into_iter().flat_map(u64::to_le_bytes).take(left));
        if taken.bytes.len() >= length {
            return Some(taken);
        }
        self.begun.insert(cpu, (taken, next.wrapping_add(1)));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Stamp;
    use oche_types::addr::IovaPage;
    use oche_types::dart::entry::Permission;
    use oche_types::dart::stream::{DartId, StreamId};
    use oche_types::event::Placement;

    fn at(stream: usize, iova: u32) -> Place {
        let (dart, stream) = (DartId::new(0).unwrap(), StreamId::new(stream).unwrap());
        Place { dart, stream, iova: IovaPage(iova) }
    }

    fn map(at: Place, permission: Permission) -> Event {
        Event::Map { at, page: Gfn(at.iova.0 + 1), permission, placement: Placement::Migrated }
    }

    fn control() -> Control {
        let mut control = Control::default();
        control.apply("snapshot 40 streams 0:1 iova 0x5000-0x8fff").unwrap();
        control
    }

    #[test]
    fn bytes_are_taken_when_a_device_may_read_and_after_it_could_write_and_else_not() {
        let mut snapshots = Snapshots::default();
        let mut note = |event| {
            snapshots.note(&control(), &event);
            core::iter::from_fn(|| snapshots.take())
                .map(|wanted| wanted.is_written)
                .collect::<Vec<bool>>()
        };
        let unmap = |place: Place| Event::Unmap { at: place, page: Gfn(place.iova.0 + 1) };
        assert_eq!(note(map(at(1, 5), Permission::READ_ONLY)), [false]);
        assert_eq!(note(unmap(at(1, 5))), []);
        assert_eq!(note(map(at(1, 5), Permission::WRITE_ONLY)), []);
        assert_eq!(note(unmap(at(1, 5))), [true]);
        assert_eq!(note(unmap(at(1, 5))), []);
        assert_eq!(note(map(at(1, 6), Permission::READ_WRITE)), [false]);
        assert_eq!(note(unmap(at(1, 6))), [true]);
        assert_eq!(note(map(at(2, 6), Permission::READ_WRITE)), [], "another stream");
        assert_eq!(note(map(at(1, 9), Permission::READ_WRITE)), [], "outside the range");
    }

    #[test]
    fn a_trap_takes_a_bounded_number_of_pages_and_counts_the_rest() {
        let mut snapshots = Snapshots::default();
        let mut wide = control();
        wide.apply("snapshot 16 iova all").unwrap();
        for page in 0..MAX_PAGES as u32 + 7 {
            snapshots.note(&wide, &map(at(1, page), Permission::READ_ONLY));
        }
        assert_eq!(core::iter::from_fn(|| snapshots.take()).count(), MAX_PAGES);
        assert_eq!(snapshots.left_out(), 7);
    }

    /// The records of a snapshot of `bytes` bytes, from number `sequence` on.
    fn records(bytes: u16, cpu: u8, sequence: u32) -> Vec<Record> {
        let wanted = Wanted { at: at(1, 5), page: Gfn(6), is_written: true };
        let mut records = Vec::new();
        let load = |word: usize| {
            u64::from_le_bytes(core::array::from_fn(|byte| (word * 8 + byte + 1) as u8))
        };
        events(&wanted, bytes, load, |event| {
            let sequence = sequence.wrapping_add(records.len() as u32);
            records.push(Record::new(Stamp { sequence, cpu, ..Stamp::default() }, event));
        });
        records
    }

    #[test]
    fn every_length_comes_together_again_even_with_cpus_mixed() {
        for bytes in [1, 7, 8, 9, 15, 16, 17, 100, 4096] {
            let mut assembler = Assembler::default();
            let (one, other) = (records(bytes, 0, 50), records(bytes, 3, u32::MAX - 1));
            let mixed = one.iter().zip(&other).flat_map(|(one, other)| [one, other]);
            let taken: Vec<Taken> = mixed.filter_map(|record| assembler.take(record)).collect();
            assert_eq!(taken.len(), 2, "{bytes}");
            let expected: Vec<u8> = (0..bytes).map(|byte| (byte + 1) as u8).collect();
            assert!(taken.iter().all(|taken| taken.bytes == expected), "{bytes}");
            assert_eq!((taken[0].record, assembler.incomplete), (one[0], 0));
            assert_eq!(one.len(), 1 + usize::from(bytes).div_ceil(16));
        }
    }

    #[test]
    fn a_snapshot_with_a_hole_is_counted_and_not_shown() {
        let mut assembler = Assembler::default();
        let mut torn = records(64, 0, 0);
        torn.remove(2);
        torn.extend(records(16, 0, 90));
        let taken: Vec<Taken> = torn.iter().filter_map(|record| assembler.take(record)).collect();
        assert_eq!((taken.len(), assembler.incomplete), (1, 1));
        assert_eq!(taken[0].record.sequence(), 90);
    }
}
