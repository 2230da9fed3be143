//! Mappings left when a stream is cut off or given other tables.

use oche_trace::record::Record;
use oche_types::addr::Gfn;

use super::super::lifetime::{Lifetimes, Mapping, StreamPlace};
use super::super::words::many;
use super::finding::{About, Detector, Reporter};

/// Times that a stream is cut off for which what is left mapped is looked for. Looking costs what
/// is mapped.
const MAX_RESETS: u32 = 256;

/// Times that a stream was cut off or given other tables.
#[derive(Debug, Default)]
pub(super) struct Resets(u32);

impl Resets {
    /// The root that `place` is about to lose, if it is the last to use it and is looked at.
    pub(super) fn begins(&mut self, place: StreamPlace, lifetimes: &Lifetimes) -> Option<Gfn> {
        let root = lifetimes.root(place)?;
        let is_shared = lifetimes.partners(place).any(|other| lifetimes.root(other) == Some(root));
        if is_shared || self.0 >= MAX_RESETS {
            return None;
        }
        self.0 += 1;
        Some(root)
    }
}

/// Reports what is still mapped for `place`. What came before events went missing, at
/// `missing_until`, may be gone.
pub(super) fn report_left(
    place: StreamPlace,
    is_on: bool,
    missing_until: Option<u64>,
    record: &Record,
    lifetimes: &Lifetimes,
    reporter: &mut Reporter<'_>,
) {
    // The new tables' mappings come in the flush that brings the new root.
    let is_old = |mapping: &Mapping| {
        missing_until.is_none_or(|until| mapping.since.time > until)
            && !(is_on && lifetimes.is_of_current_flush(mapping, record.cpu()))
    };
    let left: Vec<Mapping> = lifetimes.of_space(place).filter(is_old).collect();
    let Some(oldest) = left.iter().min_by_key(|mapping| mapping.since.time) else { return };
    let message = format!(
        "The stream was {} with {} mapped. The oldest is {:#x} (guest page {:#x}), since {}, {}.",
        if is_on { "given other tables" } else { "cut off" },
        many(left.len() as u64, "page"),
        oldest.iova.iova(),
        oldest.page.address(),
        reporter.at(oldest.since.time),
        reporter.by(&oldest.since)
    );
    let about = About {
        detector: Detector::LeftAtReset,
        place,
        iova: Some(oldest.iova.iova()),
        program_counter: oldest.since.program_counter,
    };
    reporter.report(about, record, message);
}
