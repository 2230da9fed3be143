//! Which unmaps had a flush of their own.
//!
//! A driver that keeps to the rules clears an entry and then flushes; that flush maps nothing. An unmap that comes to
//! light in a flush that maps something was another CPU's, whose own flush is still to come, or was never flushed. So it
//! is *owed* a flush: one by another CPU, or one that maps nothing. If the address is mapped again before, it had none.

use oche_hyp::addr::{Gfn, IovaPage};
use oche_hyp::trace::record::Record;
use rustc_hash::FxHashMap;

use super::super::lifetime::Mapping;

/// Unmaps of one flush that are remembered.
const MOST_IN_A_FLUSH: usize = 256;
/// Unmaps that are owed a flush, at most, in all spaces.
const MOST_OWED: usize = 1 << 14;

/// An unmap without a flush.
pub(super) enum Unflushed {
    /// Unmapped and mapped in one flush; what it was mapped to before.
    Same { before: Gfn },
    /// Came to light in an earlier flush at this time, in ticks, and was owed one.
    Owed { unmapped: u64 },
}

/// The flush under way on one CPU.
#[derive(Clone, Debug, Default)]
struct Current {
    unmaps: Vec<(u16, IovaPage, Gfn)>,
    /// The space that the last mapping was made in.
    mapped: Option<u16>,
    /// Whether it paid what its CPU is owed: no mapping in it so far.
    is_open: bool,
}

/// The flushes of all CPUs.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    cpus: Vec<Current>,
    /// By address: time in ticks, and the CPU in whose flush it came to light.
    owed: FxHashMap<(u16, IovaPage), (u64, u8)>,
}

impl Flushes {
    /// Events are missing: nobody is owed anything.
    pub(super) fn forget(&mut self) {
        self.owed.clear();
        self.cpus.clear();
    }

    pub(super) fn begin(&mut self, record: &Record) {
        if !self.owed.is_empty() {
            // By another CPU: this may be the flush that was to come.
            self.owed.retain(|_, (_, cpu)| *cpu == record.cpu());
        }
        let current = self.current(record.cpu());
        current.unmaps.clear();
        current.mapped = None;
        current.is_open = true;
    }

    pub(super) fn unmapped(&mut self, space: u16, mapping: &Mapping, record: &Record) {
        let current = self.current(record.cpu());
        if current.is_open && current.unmaps.len() < MOST_IN_A_FLUSH {
            current.unmaps.push((space, mapping.iova, mapping.page));
        }
    }

    pub(super) fn mapped(&mut self, space: u16, mapping: &Mapping) -> Option<Unflushed> {
        let current = self.current(mapping.since.cpu);
        current.mapped = Some(space);
        if let Some(index) =
            current.unmaps.iter().position(|(of, iova, _)| (*of, *iova) == (space, mapping.iova))
        {
            let (_, _, before) = current.unmaps.swap_remove(index);
            return Some(Unflushed::Same { before });
        }
        if self.owed.is_empty() {
            return None;
        }
        let (unmapped, _) = self.owed.remove(&(space, mapping.iova))?;
        Some(Unflushed::Owed { unmapped })
    }

    pub(super) fn end(&mut self, record: &Record) {
        let Some(current) = self.cpus.get_mut(usize::from(record.cpu())) else { return };
        current.is_open = false;
        let Some(space) = current.mapped else {
            // It mapped nothing: an unmap's own flush, and it covers all that came before.
            if !self.owed.is_empty() {
                self.owed.clear();
            }
            return;
        };
        for (of, iova, _) in current.unmaps.drain(..).filter(|(of, _, _)| *of == space) {
            if self.owed.len() < MOST_OWED {
                self.owed.insert((of, iova), (record.time(), record.cpu()));
            }
        }
    }

    fn current(&mut self, cpu: u8) -> &mut Current {
        let index = usize::from(cpu);
        if self.cpus.len() <= index {
            self.cpus.resize(index + 1, Current::default());
        }
        &mut self.cpus[index]
    }
}
