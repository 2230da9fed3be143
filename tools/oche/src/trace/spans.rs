//! Buffers over time: the pages that one flush mapped side by side, from the first one's map to the
//! last one's unmap.
//!
//! Streaming, like [`super::lifetime`]: memory grows with what is mapped at once.

use oche_trace::record::{Record, Stamp};
use oche_types::event::Event;
use rustc_hash::FxHashMap;

use super::lifetime::{Lifetimes, MappingChange};
use super::maps::MappedBuffer;

/// Names a buffer while it is mapped. Used again after that, so it serves as the lowest free row of
/// a picture.
pub type Lane = u32;

/// A change of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// It was mapped; reported when all its pages are known, with the time of the first.
    Began {
        /// The lane that it takes.
        lane: Lane,
        /// The buffer.
        buffer: MappedBuffer,
    },
    /// Its last page was unmapped.
    Ended {
        /// Its lane, free again.
        lane: Lane,
        /// The buffer.
        buffer: MappedBuffer,
        /// Time, CPU and guest code.
        until: Stamp,
    },
}

/// The buffers that are mapped.
#[derive(Debug, Default)]
pub struct Spans {
    /// The mappings, by page.
    pub lifetimes: Lifetimes,
    /// By space and IOVA page: the buffer that it belongs to.
    lanes: FxHashMap<(u16, u32), Lane>,
    buffers: Vec<Option<Open>>,
    free: std::collections::BTreeSet<Lane>,
    /// By CPU: the buffer that may still grow.
    growing: FxHashMap<u8, Lane>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    buffer: MappedBuffer,
    /// Pages that are still mapped.
    left: u32,
}

impl Spans {
    /// Follows `record`; calls `report` with what happened to buffers, and `self` is as after it.
    /// Returns what the record changed.
    pub fn follow(&mut self, record: &Record, mut report: impl FnMut(Happening)) -> MappingChange {
        let Some(event) = record.event() else { return MappingChange::None };
        let goes_on = matches!(
            event,
            Event::Map { .. }
                | Event::Moved { .. }
                | Event::Fetched { .. }
                | Event::Merged { .. }
                | Event::Snapshot { .. }
                | Event::Data { .. }
        );
        if !goes_on {
            self.settle(record.cpu(), &mut report);
        }
        let change = self.lifetimes.apply(record);
        match change {
            MappingChange::Mapped { mapping, over } => {
                let key = (self.lifetimes.space(mapping.owner), mapping.iova.0);
                if over.is_some()
                    && let Some(lane) = self.lanes.remove(&key)
                {
                    self.leave(lane, record.stamp(), &mut report);
                }
                let growing = self.growing.get(&record.cpu()).copied();
                if let Some(lane) = growing.filter(|lane| self.grows_by(*lane, &mapping)) {
                    if let Some(Some(open)) = self.buffers.get_mut(lane as usize) {
                        open.buffer.pages += 1;
                        open.left += 1;
                    }
                    self.lanes.insert(key, lane);
                } else {
                    self.settle(record.cpu(), &mut report);
                    let lane = self
                        .open(Open { buffer: MappedBuffer { first: mapping, pages: 1 }, left: 1 });
                    self.growing.insert(record.cpu(), lane);
                    self.lanes.insert(key, lane);
                }
            }
            MappingChange::Unmapped { at, iova, mapping: Some(_) } => {
                let key = (self.lifetimes.space(at), iova.0);
                // Of two at one place, the one that was in the way has left its lane already.
                if self.lifetimes.at(at, iova).is_none()
                    && let Some(lane) = self.lanes.remove(&key)
                {
                    self.leave(lane, record.stamp(), &mut report);
                }
            }
            _ => {}
        }
        change
    }

    /// Reports the buffers that were still growing when the events ended.
    pub fn finish(&mut self, mut report: impl FnMut(Happening)) {
        let cpus: Vec<u8> = self.growing.keys().copied().collect();
        for cpu in cpus {
            self.settle(cpu, &mut report);
        }
    }

    fn grows_by(&self, lane: Lane, mapping: &super::lifetime::Mapping) -> bool {
        let Some(Some(open)) = self.buffers.get(lane as usize) else { return false };
        let first = &open.buffer.first;
        mapping.iova.0 == first.iova.0.wrapping_add(open.buffer.pages)
            && (mapping.owner, mapping.permission, mapping.flush)
                == (first.owner, first.permission, first.flush)
    }

    /// The CPU's buffer has all its pages.
    fn settle(&mut self, cpu: u8, report: &mut impl FnMut(Happening)) {
        let Some(lane) = self.growing.remove(&cpu) else { return };
        if let Some(Some(open)) = self.buffers.get(lane as usize) {
            report(Happening::Began { lane, buffer: open.buffer });
        }
    }

    fn open(&mut self, open: Open) -> Lane {
        let lane = self.free.pop_first().unwrap_or_else(|| {
            self.buffers.push(None);
            self.buffers.len() as Lane - 1
        });
        if let Some(place) = self.buffers.get_mut(lane as usize) {
            *place = Some(open);
        }
        lane
    }

    /// One page less; the last one ends the buffer.
    fn leave(&mut self, lane: Lane, until: Stamp, report: &mut impl FnMut(Happening)) {
        // Another CPU may take apart what this one still grows.
        if let Some(cpu) =
            self.growing.iter().find(|(_, growing)| **growing == lane).map(|(cpu, _)| *cpu)
        {
            self.settle(cpu, report);
        }
        let Some(place) = self.buffers.get_mut(lane as usize) else { return };
        let Some(open) = place else { return };
        open.left = open.left.saturating_sub(1);
        if open.left == 0 {
            let buffer = open.buffer;
            *place = None;
            self.free.insert(lane);
            report(Happening::Ended { lane, buffer, until });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::made::{Made, at, map, unmap};
    use crate::trace::reader::TraceItem;
    use oche_types::dart::entry::Permission;

    const TO_DEVICE: Permission = Permission::READ_ONLY;

    fn happenings(made: &Made) -> Vec<Happening> {
        let (mut spans, mut all) = (Spans::default(), Vec::new());
        for item in made.open().events() {
            if let TraceItem::Record(record) = item {
                spans.follow(&record, |happening| all.push(happening));
            }
        }
        spans.finish(|happening| all.push(happening));
        all
    }

    fn words(made: &Made) -> Vec<String> {
        let word = |happening: &Happening| match happening {
            Happening::Began { lane, buffer } => format!("{lane}+{}", buffer.pages),
            Happening::Ended { lane, buffer, .. } => format!("{lane}-{}", buffer.pages),
        };
        happenings(made).iter().map(word).collect()
    }

    #[test]
    fn pages_of_a_flush_are_one_buffer_that_ends_with_the_last_of_them() {
        let mut made = Made::new();
        let pages: Vec<Event> =
            (0..3).map(|page| map(at(0, 1, 8 + page), 100 - page, TO_DEVICE)).collect();
        made.flush(0, 1, &pages).map(0, 1, 11, 50, TO_DEVICE);
        made.flush(0, 1, &[unmap(at(0, 1, 9), 99)]).unmap(0, 1, 11, 50);
        made.flush(0, 1, &[unmap(at(0, 1, 8), 100), unmap(at(0, 1, 10), 98)])
            .map(0, 1, 9, 7, TO_DEVICE);
        assert_eq!(words(&made), ["0+3", "1+1", "1-1", "0-3", "0+1"]);
        assert_eq!(happenings(&made).len(), 5);
    }

    #[test]
    fn what_is_overwritten_ends_before_what_takes_its_place_begins() {
        let mut made = Made::new();
        made.map(0, 1, 8, 5, TO_DEVICE).map(0, 1, 8, 6, TO_DEVICE).unmap(0, 1, 8, 6);
        assert_eq!(words(&made), ["0+1", "0-1", "0+1", "0-1"]);
    }

    #[test]
    fn what_is_still_mapped_at_the_end_has_begun() {
        let mut made = Made::new();
        made.event(map(at(0, 1, 8), 5, TO_DEVICE));
        assert_eq!(words(&made), ["0+1"]);
    }
}
