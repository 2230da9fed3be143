//! How the guest's clock stands to Oche's, from what both traces have.
//!
//! Linux traces `iommu:map` before it flushes what it has written, and Oche records the same page's
//! `map` in that flush: ftrace's event is never later. Linux traces `iommu:unmap` of the page after
//! that flush has ended: that event is never earlier than Oche's `map`. So each page that both have
//! exactly once bounds the offset on both sides, whatever the scheduler did, and the bounds of all
//! pages together are tight. Source: Linux 6.12, `drivers/iommu/iommu.c`, `iommu_map` and
//! `__iommu_unmap`.

use anyhow::{Result, bail};
use oche_types::event::Event;
use rustc_hash::FxHashMap;

use super::ftrace::{Ftrace, address};
use super::reader::{ByteSource, TraceFile};
use super::words::span;

/// Pages that both traces must have exactly once.
const LEAST_PAGES: usize = 4;
/// ftrace's text rounds to microseconds.
const ROUNDING_NS: i64 = 1_000;

/// The offset of two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// Oche's nanoseconds at the guest's nanosecond 0: add it to the guest's time.
    pub offset_ns: i64,
    /// The offset is at most this much smaller.
    pub slack_ns: u64,
    /// Pages that both traces have exactly once.
    pub pages: usize,
}

/// A page: its IOVA and its physical address.
type Page = (u64, u64);

/// One time that the guest had a page mapped, in nanoseconds of its clock.
#[derive(Clone, Copy, Debug)]
struct Stay {
    page: Page,
    mapped: u64,
    unmapped: Option<u64>,
}

/// The range that the offset is in.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    lowest: i64,
    highest: i64,
    pages: usize,
}

impl Bounds {
    /// Oche saw the page of `stay` mapped at `own`.
    fn tighten(&mut self, stay: &Stay, own: u64) {
        let offset = |guest: u64| (own as i64).wrapping_sub(guest as i64);
        self.highest = self.highest.min(offset(stay.mapped).saturating_add(ROUNDING_NS / 2));
        if let Some(unmapped) = stay.unmapped {
            self.lowest = self.lowest.max(offset(unmapped).saturating_sub(ROUNDING_NS / 2));
        }
        self.pages += 1;
    }

    /// Whether `own` may be when Oche saw the page of `stay` mapped.
    fn allows(&self, stay: &Stay, own: u64) -> bool {
        let offset = |guest: u64| (own as i64).wrapping_sub(guest as i64);
        let after = stay.unmapped.is_none_or(|unmapped| offset(unmapped) <= self.highest);
        offset(stay.mapped) >= self.lowest && after
    }
}

/// Aligns the clock of `ftrace` with that of `trace`'s boot number `session`.
///
/// # Errors
///
/// The two have too little in common, or contradict each other; the remedy.
pub fn align<S: ByteSource>(
    ftrace: &Ftrace,
    trace: &TraceFile<S>,
    session: usize,
) -> Result<Alignment> {
    let stays = stays(ftrace);
    let mut seen: FxHashMap<Page, u32> = FxHashMap::default();
    stays.iter().for_each(|stay| *seen.entry(stay.page).or_default() += 1);
    if stays.is_empty() {
        bail!(
            "the guest's trace has no iommu:map event: record it with \
             `echo 1 >/sys/kernel/tracing/events/iommu/enable` or `trace-cmd record -e iommu`"
        );
    }
    let own = own_maps(trace, session, &seen);
    let mut bounds = Bounds { lowest: i64::MIN, highest: i64::MAX, pages: 0 };
    for stay in stays.iter().filter(|stay| seen.get(&stay.page) == Some(&1)) {
        if let Some([time]) = own.get(&stay.page).map(Vec::as_slice) {
            bounds.tighten(stay, *time);
        }
    }
    if bounds.pages < LEAST_PAGES {
        bail!(
            "{} of the guest's {} mapped pages are in the trace, each once; {LEAST_PAGES} are needed: are both of \
             the same boot and time?",
            bounds.pages,
            seen.len()
        );
    }
    // Pages that come again, where only one of their times is possible.
    let known = bounds;
    for stay in stays.iter().filter(|stay| seen.get(&stay.page) != Some(&1)) {
        let times = own.get(&stay.page).map(Vec::as_slice).unwrap_or_default();
        let mut possible = times.iter().filter(|time| known.allows(stay, **time));
        if let (Some(time), None) = (possible.next(), possible.next()) {
            bounds.tighten(stay, *time);
        }
    }
    if bounds.lowest > bounds.highest {
        bail!(
            "the guest's clock and Oche's differ by {} in the course of the trace: ftrace's clocks `local` (the \
             default) and `mono_raw` do not; or the two traces are of different boots",
            span(bounds.lowest.abs_diff(bounds.highest))
        );
    }
    let Bounds { lowest, highest, pages } = bounds;
    if lowest == i64::MIN {
        bail!("none of the pages is unmapped in the guest's trace: record a little longer");
    }
    Ok(Alignment { offset_ns: highest, slack_ns: highest.abs_diff(lowest), pages })
}

/// The pages that the guest mapped, each time.
fn stays(ftrace: &Ftrace) -> Vec<Stay> {
    let mut stays: Vec<Stay> = Vec::new();
    // By IOVA: the page mapped there last.
    let mut open: FxHashMap<u64, usize> = FxHashMap::default();
    for event in ftrace.events() {
        let Some(iova) = address(event.fields, "iova=") else { continue };
        match event.name {
            "map" => {
                let Some(physical) = address(event.fields, "paddr=") else { continue };
                open.insert(iova, stays.len());
                let page = (iova, physical);
                stays.push(Stay { page, mapped: event.time_ns, unmapped: None });
            }
            "unmap" => {
                if let Some(stay) = open.remove(&iova).and_then(|index| stays.get_mut(index)) {
                    stay.unmapped = Some(event.time_ns);
                }
            }
            _ => {}
        }
    }
    stays
}

/// When Oche saw the pages of `wanted` mapped, in nanoseconds of its clock.
fn own_maps<S: ByteSource>(
    trace: &TraceFile<S>,
    session: usize,
    wanted: &FxHashMap<Page, u32>,
) -> FxHashMap<Page, Vec<u64>> {
    let mut pages: FxHashMap<Page, Vec<u64>> = FxHashMap::default();
    let Some(of) = trace.sessions.get(session) else { return pages };
    let clock = of.description.own_clock();
    trace.scan(session, |record| {
        let Some(Event::Map { at, page, .. }) = record.event() else { return };
        let page = (at.iova.iova(), page.address());
        if wanted.contains_key(&page) {
            pages.entry(page).or_default().push(clock.nanoseconds(record.time()));
        }
    });
    pages
}

#[cfg(test)]
mod tests;
