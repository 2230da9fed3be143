//! The last events at an address, for as many addresses as fit a fixed table.

use oche_trace::record::Record;
use oche_types::event::Kind;

/// Places in the table, a power of two.
const PLACES: usize = 1 << 13;
/// Events that are kept of each.
pub(super) const EACH: usize = 6;

/// The last events of each address.
pub(super) struct LastEvents(Vec<(u64, Vec<Record>)>);

impl LastEvents {
    pub(super) fn new() -> Self {
        Self(vec![(u64::MAX, Vec::new()); PLACES])
    }

    /// Keeps `record` if it is about a page.
    pub(super) fn push(&mut self, record: &Record) {
        let is_about_a_page = matches!(
            record.kind(),
            Some(
                Kind::Map
                    | Kind::Unmap
                    | Kind::Permission
                    | Kind::Refused
                    | Kind::RedZone
                    | Kind::LiveMove
            )
        );
        if !is_about_a_page {
            return;
        }
        let page = record.payload() >> 32;
        let Some((of, records)) = self.0.get_mut(page as usize % PLACES) else { return };
        if *of != page {
            *of = page;
            records.clear();
        }
        if records.len() == EACH {
            records.remove(0);
        }
        records.push(*record);
    }

    /// The last events at `iova`, oldest first.
    pub(super) fn at(&self, iova: u64) -> Vec<Record> {
        let page = iova >> 12;
        match self.0.get(page as usize % PLACES) {
            Some((of, records)) if *of == page => records.clone(),
            _ => Vec::new(),
        }
    }
}
