//! `cargo xtask measure aliases`: how many replicas of a trace could have shared the frame of another mapping of their page.
//!
//! Two granules could use one frame where the page lies in the same slot of both, and where everything else that the
//! hardware's entries reach in that frame is the same as well. Otherwise a device would reach what is not mapped for it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, bail};
use oche_hyp::addr::{Gfn, IovaPage, SLOTS};
use oche_hyp::dart::stream::{DartId, StreamId};
use oche_hyp::trace::{Event, Place, Placement};

use crate::trace::TraceFile;
use crate::trace::reader::Item;
use crate::workspace;

/// Options of `cargo xtask measure aliases`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The trace [default: the demo's].
    pub trace: Option<PathBuf>,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    maps: u64,
    replicas: u64,
    /// Replicas whose page another granule has in the same slot.
    agreeing: u64,
    /// Of those, with windows: the run of slots that the replica's granule reaches is the same in the other's frame.
    with_windows: u64,
    /// Without windows: all four slots are.
    without_windows: u64,
}

/// Carries out `cargo xtask measure aliases`.
///
/// # Errors
///
/// The trace cannot be read, or maps nothing.
pub(super) fn main(options: &Options) -> Result<()> {
    let path = options.trace.clone().unwrap_or_else(|| workspace::target().join("demo").join("trace.oche"));
    let trace = TraceFile::open(&path)?;
    let mut granules = Granules::default();
    let mut missing = 0;
    for item in trace.events() {
        match item {
            Item::Session(_) => granules.mapped.clear(),
            Item::Record(record) => record.event().into_iter().for_each(|event| granules.take(&event)),
            Item::Lost { records, .. } | Item::Unreadable { records, .. } => missing += records,
        }
    }
    let tally = granules.tally;
    if tally.maps == 0 {
        bail!("nothing is mapped in {}", path.display());
    }
    if missing > 0 {
        eprintln!("warning: {missing} events are missing");
    }
    let percent = |part: u64| 100.0 * part as f64 / tally.replicas.max(1) as f64;
    println!("pages mapped                         {:>9}", tally.maps);
    println!("as replicas                          {:>9}", tally.replicas);
    for (what, count) in [
        ("in a slot where the page also is", tally.agreeing),
        ("could share that frame, with windows", tally.with_windows),
        ("and without", tally.without_windows),
    ] {
        println!("{what:<37}{count:>9}   {:.1} %", percent(count));
    }
    Ok(())
}

type Stream = (DartId, StreamId);

/// What is mapped where, by stream and granule.
#[derive(Debug, Default)]
struct Granules {
    mapped: BTreeMap<(Stream, u32), [Option<Gfn>; SLOTS]>,
    /// Where each page is mapped.
    places: BTreeMap<Gfn, Vec<(Stream, IovaPage)>>,
    tally: Tally,
}

impl Granules {
    fn take(&mut self, event: &Event) {
        match *event {
            Event::Map { at, page, placement, .. } => {
                self.tally.maps += 1;
                let (stream, slot) = place(&at);
                let granule = self.mapped.entry(granule(stream, at.iova)).or_default();
                granule[slot] = Some(page);
                let own = *granule;
                if placement == Placement::Replica {
                    self.count(own, page, slot);
                }
                self.places.entry(page).or_default().push((stream, at.iova));
            }
            Event::Unmap { at, page } => {
                let (stream, slot) = place(&at);
                if let Some(granule) = self.mapped.get_mut(&granule(stream, at.iova)) {
                    granule[slot] = None;
                }
                if let Some(places) = self.places.get_mut(&page) {
                    places.retain(|place| *place != (stream, at.iova));
                }
            }
            _ => {}
        }
    }

    fn count(&mut self, own: [Option<Gfn>; SLOTS], page: Gfn, slot: usize) {
        self.tally.replicas += 1;
        let others: Vec<[Option<Gfn>; SLOTS]> = self
            .places
            .get(&page)
            .into_iter()
            .flatten()
            .filter(|(_, iova)| iova.slot() == slot)
            .filter_map(|(stream, iova)| self.mapped.get(&granule(*stream, *iova)).copied())
            .collect();
        let is_mapped = own.map(|page| page.is_some());
        let (first, last) = (is_mapped.iter().position(|is| *is), is_mapped.iter().rposition(|is| *is));
        let run = first.unwrap_or(slot)..=last.unwrap_or(slot);
        self.tally.agreeing += u64::from(!others.is_empty());
        self.tally.with_windows +=
            u64::from(others.iter().any(|other| other.get(run.clone()) == own.get(run.clone())));
        self.tally.without_windows += u64::from(others.contains(&own));
    }
}

fn place(at: &Place) -> (Stream, usize) {
    ((at.dart, at.stream), at.iova.slot())
}

fn granule(stream: Stream, iova: IovaPage) -> (Stream, u32) {
    (stream, iova.granule().0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oche_hyp::dart::entry::Permission;

    #[test]
    fn only_a_replica_whose_neighbours_agree_could_share_a_frame() {
        let mut granules = Granules::default();
        let mut map = |iova, page, placement| {
            let at = Place { dart: DartId::FIRST, stream: StreamId::FIRST, iova: IovaPage(iova) };
            granules.take(&Event::Map { at, page: Gfn(page), permission: Permission::READ_ONLY, placement });
            granules.tally
        };
        map(4, 100, Placement::Composed);
        map(5, 101, Placement::Composed);
        assert_eq!(map(10, 100, Placement::Replica).agreeing, 0, "another slot");
        let tally = map(16, 100, Placement::Replica);
        assert_eq!((tally.agreeing, tally.with_windows, tally.without_windows), (1, 1, 0));
        assert_eq!(map(17, 102, Placement::Composed).with_windows, 1);
        let tally = map(20, 100, Placement::Replica);
        assert_eq!((tally.with_windows, tally.without_windows), (2, 0), "alone, as a window can have it");
        let tally = map(21, 101, Placement::Replica);
        assert_eq!((tally.replicas, tally.with_windows, tally.without_windows), (4, 3, 1));
    }
}
