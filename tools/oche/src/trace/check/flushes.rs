//! Entries overwritten, and unmaps that had no flush of their own.
//!
//! A driver that keeps to the rules clears an entry and then flushes; that flush maps nothing. An
//! unmap that comes to light in a flush that maps something was another CPU's, whose own flush is
//! still to come, or was never flushed. So it is *owed* a flush: one by another CPU, or one that
//! maps nothing. If the address is mapped again before, it had none.

use oche_trace::record::Record;
use oche_types::addr::{Gfn, IovaPage};
use rustc_hash::FxHashMap;

use super::super::lifetime::Mapping;
use super::finding::{About, Detector, Reporter};

/// Unmaps of one flush that are remembered.
const MAX_IN_A_FLUSH: usize = 256;
/// Unmaps that are owed a flush, at most, in all spaces.
const MAX_OWED: usize = 1 << 14;

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
    /// Events are missing: no flush is owed.
    pub(super) fn forget(&mut self) {
        self.owed.clear();
        self.cpus.clear();
    }

    #[inline]
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
        if current.is_open && current.unmaps.len() < MAX_IN_A_FLUSH {
            current.unmaps.push((space, mapping.iova, mapping.page));
        }
    }

    /// A mapping was made; reports if it came where an unmap had no flush.
    pub(super) fn mapped(
        &mut self,
        space: u16,
        mapping: &Mapping,
        record: &Record,
        reporter: &mut Reporter<'_>,
    ) {
        let current = self.current(mapping.since.cpu);
        current.mapped = Some(space);
        let is_here = |(of, iova, _): &(u16, IovaPage, Gfn)| (*of, *iova) == (space, mapping.iova);
        if !current.unmaps.is_empty()
            && let Some(index) = current.unmaps.iter().position(is_here)
        {
            let (_, _, before) = current.unmaps.swap_remove(index);
            report_same(mapping, before, record, reporter);
        } else if !self.owed.is_empty()
            && let Some((unmapped, _)) = self.owed.remove(&(space, mapping.iova))
        {
            report_owed(mapping, unmapped, record, reporter);
        }
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
            if self.owed.len() < MAX_OWED {
                self.owed.insert((of, iova), (record.time(), record.cpu()));
            }
        }
    }

    #[inline]
    fn current(&mut self, cpu: u8) -> &mut Current {
        let index = usize::from(cpu);
        if self.cpus.len() <= index {
            self.cpus.resize(index + 1, Current::default());
        }
        &mut self.cpus[index]
    }
}

/// `mapping` came while `over` was mapped there.
pub(super) fn report_over(
    mapping: &Mapping,
    over: &Mapping,
    record: &Record,
    reporter: &mut Reporter<'_>,
) {
    let message = format!(
        "{:#x} was mapped to guest page {:#x} while still mapped to {:#x} (since {}, {}).",
        mapping.iova.iova(),
        mapping.page.address(),
        over.page.address(),
        reporter.at(over.since.time),
        reporter.by(&over.since)
    );
    reporter.report(About::mapping(Detector::DoubleMap, mapping), record, message);
}

/// Unmapped and mapped in one flush; it was mapped to `before`.
fn report_same(mapping: &Mapping, before: Gfn, record: &Record, reporter: &mut Reporter<'_>) {
    let message = format!(
        "{:#x} went from guest page {:#x} to {:#x} within one flush: the entry was overwritten, or unmapped \
         and mapped again with no flush between. The device may still use the old page.",
        mapping.iova.iova(),
        before.address(),
        mapping.page.address()
    );
    reporter.report(About::mapping(Detector::DoubleMap, mapping), record, message);
}

/// Its unmap came to light in an earlier flush, at `unmapped`, and was owed one.
fn report_owed(mapping: &Mapping, unmapped: u64, record: &Record, reporter: &mut Reporter<'_>) {
    let message = format!(
        "{:#x} was taken out of the tables without a flush: that came to light in a flush made for another \
         mapping at {}, no flush of its own followed, and the address is mapped again. Until then the device \
         could use the old page.",
        mapping.iova.iova(),
        reporter.at(unmapped)
    );
    reporter.report(About::mapping(Detector::UnmappedWithoutFlush, mapping), record, message);
}
