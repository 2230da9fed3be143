//! The same hostile guest with all of its buffers watched: it notices nothing, and what is reported
//! of its accesses adds up.
//!
//! A model of the watched pages takes every store that was reported; every load that is reported
//! must find what the model holds. Pages that a device may write are left out, for no event reports
//! a device's stores.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use oche::trace::TraceFile;
use oche::trace::reader::TraceItem;
use oche::trace::values::WithValues;
use oche_types::addr::{Gfn, PAGE_BYTES};
use oche_types::event::{Event, WatchHow};

/// What the guest's Oche is asked: to watch every IOVA that the guest uses, in rings that no one
/// overtakes.
pub(super) const OPTIONS: [(&str, &str); 2] =
    [("oche.trace-orders", "watch 0-0x3fffff"), ("oche.trace", "16M")];
/// A run that reports fewer accesses of a sort has left some out.
const LEAST: u64 = 1000;

/// How many accesses were reported of which sort.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AccessCounts {
    loads: u64,
    stores: u64,
    before: u64,
    after: u64,
    given_up: u64,
    /// Bytes that were loaded and were in the model.
    compared: u64,
}

/// Checks the trace of such a run.
pub(super) fn judge(trace: &Path) -> Result<AccessCounts> {
    let trace = TraceFile::open(trace)?;
    let mut model = Model::default();
    for (item, value) in WithValues::new(trace.events()) {
        match item {
            TraceItem::Record(record) => {
                if let Some(event) = record.event() {
                    model.take(&event, &value)?;
                }
            }
            TraceItem::Session(_) => {}
            TraceItem::Lost { .. } | TraceItem::Unreadable { .. } => {
                bail!("watched: events were lost")
            }
        }
    }
    let tally = model.tally;
    let least = [tally.loads, tally.stores, tally.before, tally.after].into_iter().min();
    if least.is_none_or(|least| least < LEAST)
        || tally.compared < 100 * LEAST
        || tally.given_up == 0
    {
        bail!("watched: too little was reported: {tally:?}");
    }
    Ok(tally)
}

/// The contents of watched pages, as far as they were reported.
#[derive(Debug, Default)]
struct Model {
    pages: BTreeMap<Gfn, Page>,
    tally: AccessCounts,
}

#[derive(Debug)]
struct Page {
    mappings: usize,
    /// A device may write it, or its watch was given up: stores go untold.
    is_open: bool,
    bytes: [Option<u8>; PAGE_BYTES],
}

impl Model {
    fn take(&mut self, event: &Event, value: &[u8]) -> Result<()> {
        match *event {
            Event::Map { page, permission, .. } => {
                let fresh = || Page { mappings: 0, is_open: false, bytes: [None; PAGE_BYTES] };
                let entry = self.pages.entry(page).or_insert_with(fresh);
                entry.mappings += 1;
                entry.is_open |= permission.write;
            }
            Event::Unmap { page, .. } => {
                if let Some(entry) = self.pages.get_mut(&page) {
                    entry.mappings -= 1;
                    if entry.mappings == 0 {
                        self.pages.remove(&page);
                    }
                }
            }
            Event::Watch { page, offset, bytes, is_write, how, .. } => {
                let Some(entry) = self.pages.get_mut(&page) else {
                    bail!("watched: {event:?} of a page that is not mapped");
                };
                if value.len() != usize::from(bytes) {
                    bail!("watched: {event:?} without its value");
                }
                match (how, is_write) {
                    (WatchHow::Exact, false) => self.tally.loads += 1,
                    (WatchHow::Exact, true) => self.tally.stores += 1,
                    (WatchHow::Before, _) => self.tally.before += 1,
                    (WatchHow::After, _) => self.tally.after += 1,
                    (WatchHow::GivenUp, _) => {
                        self.tally.given_up += 1;
                        entry.is_open = true;
                    }
                }
                if entry.is_open {
                    return Ok(());
                }
                let stores =
                    matches!((how, is_write), (WatchHow::Exact, true) | (WatchHow::After, _));
                for (known, reported) in entry.bytes.iter_mut().skip(usize::from(offset)).zip(value)
                {
                    if !stores {
                        if known.is_some_and(|known| known != *reported) {
                            bail!("watched: {event:?} finds {value:02x?}, which was not stored");
                        }
                        self.tally.compared += u64::from(known.is_some());
                    }
                    *known = Some(*reported);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oche_types::addr::IovaPage;
    use oche_types::dart::entry::Permission;
    use oche_types::dart::stream::{DartId, StreamId};
    use oche_types::event::{Place, Placement};

    #[test]
    fn a_load_of_a_value_that_was_never_stored_is_noticed() {
        let mut model = Model::default();
        let at = Place { dart: DartId::FIRST, stream: StreamId::FIRST, iova: IovaPage(1) };
        let (page, placement) = (Gfn(5), Placement::Bounce);
        let map = Event::Map { at, page, permission: Permission::READ_ONLY, placement };
        let access =
            |offset, is_write, how| Event::Watch { at, offset, page, bytes: 2, is_write, how };
        model.take(&map, &[]).unwrap();
        model.take(&access(4, true, WatchHow::Exact), &[1, 2]).unwrap();
        model.take(&access(5, false, WatchHow::Exact), &[2, 9]).unwrap();
        model.take(&access(5, true, WatchHow::After), &[3, 9]).unwrap();
        model.take(&access(4, false, WatchHow::Before), &[1, 3]).unwrap();
        assert!(model.take(&access(5, false, WatchHow::Exact), &[2, 9]).is_err());
        assert!(model.take(&access(4, false, WatchHow::Exact), &[1]).is_err(), "a byte is missing");
        assert_eq!((model.tally.compared, model.tally.after), (3, 1));
        model.take(&Event::Unmap { at, page }, &[]).unwrap();
        assert!(
            model.take(&access(4, false, WatchHow::Exact), &[1, 3]).is_err(),
            "it is not mapped"
        );
    }
}
