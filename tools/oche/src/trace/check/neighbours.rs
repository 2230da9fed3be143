//! The mappings of each guest page: which other data a device reaches because it shares a page.

use oche_trace::record::Record;
use oche_types::addr::Gfn;
use oche_types::dart::entry::Permission;
use oche_types::event::Placement;
use rustc_hash::FxHashMap;

use super::super::lifetime::{Mapping, StreamPlace};
use super::super::pages::{PageEntry, PageTable};
use super::super::words::permission;
use super::finding::{About, Detector, Reporter};

/// How a page is shared with another device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    /// The root of a DART's tables, which the device may write.
    Root,
    /// Coherent memory, of which one of the two is.
    Coherent { other: StreamPlace },
    /// Memory that another device writes too.
    Written { other: StreamPlace },
    /// Another buffer: common, and no error.
    Streaming,
}

/// A page's mappings.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    mappings: u16,
    /// Read-write ones, as coherent memory is.
    coherent: u16,
    /// Ones that a device may write.
    written: u16,
    /// The first of the remaining streams to map it.
    first: u16,
    /// The era that all this is known from.
    era: u32,
    is_root: bool,
}

impl PageEntry for Use {
    fn is_empty(&self) -> bool {
        self.mappings == 0 && self.coherent == 0 && self.written == 0 && !self.is_root
    }
}

/// The pages that are mapped, of guest memory up to 64 GiB: what an entry of a t8020 DART can name.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    pages: PageTable<Use>,
    /// How often events went missing. What a page's use was known as before then is no evidence any
    /// more.
    era: u32,
    /// When the era began, in ticks.
    missing_until: Option<u64>,
    /// When the copies of a page were last found to differ, in ticks.
    merged: FxHashMap<Gfn, u64>,
}

impl Neighbours {
    /// Events are missing until `now`: what was mapped may be gone, and roots may be elsewhere.
    pub(super) fn forget(&mut self, now: u64) {
        self.era = self.era.wrapping_add(1);
        self.missing_until = Some(now);
    }

    /// `page` holds a table root.
    pub(super) fn root(&mut self, page: Gfn) {
        self.update(page, |page| page.is_root = true);
    }

    /// `page` holds one no longer.
    pub(super) fn no_root(&mut self, page: Gfn) {
        self.update(page, |page| page.is_root = false);
    }

    /// The copies of `page` differed.
    pub(super) fn merged(&mut self, page: Gfn, time: u64) {
        self.merged.insert(page, time);
    }

    /// Records a mapping, and reports what its page is shared with, the worst of it.
    #[inline]
    pub(super) fn mapped(
        &mut self,
        mapping: &Mapping,
        record: &Record,
        reporter: &mut Reporter<'_>,
    ) {
        if !self.is_counted(mapping) {
            return;
        }
        let sharing = self.update(mapping.page, |page| page.add(mapping)).flatten();
        if let Some(sharing) = sharing {
            report_shared(mapping, sharing, record, reporter);
        }
    }

    /// Records a permission that changed, and reports what the page is shared with if that is
    /// worse now.
    pub(super) fn permitted(
        &mut self,
        mapping: &Mapping,
        before: Permission,
        record: &Record,
        reporter: &mut Reporter<'_>,
    ) {
        if !self.is_counted(mapping) {
            return;
        }
        let sharing = self.update(mapping.page, |page| {
            page.take(&Mapping { permission: before, ..*mapping });
            page.add(mapping)
        });
        if let Some(sharing) = sharing.flatten().filter(|sharing| *sharing != Sharing::Streaming) {
            report_shared(mapping, sharing, record, reporter);
        }
    }

    /// Records an unmap, and reports if the device was to write a copy of the page and no byte
    /// of it had changed.
    #[inline]
    pub(super) fn unmapped(
        &mut self,
        mapping: &Mapping,
        record: &Record,
        reporter: &mut Reporter<'_>,
    ) {
        let is_counted = self.is_counted(mapping);
        let take = |page: &mut Use| {
            if is_counted {
                page.take(mapping)
            }
        };
        let is_known = self.update(mapping.page, take).is_some();
        if is_known
            && is_counted
            && mapping.placement == Placement::Bounce
            && mapping.permission.write
        {
            let merged = self.merged.get(&mapping.page).copied().unwrap_or(0);
            if merged < mapping.since.time {
                report_unused(mapping, record, reporter);
            }
        }
    }

    /// Whether `mapping` is counted with its page: it was made since events went missing.
    #[inline]
    fn is_counted(&self, mapping: &Mapping) -> bool {
        self.missing_until.is_none_or(|until| mapping.since.time > until)
    }

    /// Lets `change` change what this era knows of `page`. `None`: no page has that number.
    #[inline]
    fn update<R>(&mut self, page: Gfn, change: impl FnOnce(&mut Use) -> R) -> Option<R> {
        let era = self.era;
        self.pages.update(page.0, |page| {
            if page.era != era {
                *page = Use { era, ..Use::default() };
            }
            change(page)
        })
    }
}

impl Use {
    fn add(&mut self, mapping: &Mapping) -> Option<Sharing> {
        let writes = mapping.permission.write;
        let is_coherent = writes && mapping.permission.read;
        let other = StreamPlace::from_index(usize::from(self.first)).unwrap_or(mapping.owner);
        let sharing = if self.is_root && writes {
            Some(Sharing::Root)
        } else if self.mappings == 0 {
            None
        } else if is_coherent || self.coherent > 0 {
            Some(Sharing::Coherent { other })
        } else if writes && self.written > 0 && other != mapping.owner {
            Some(Sharing::Written { other })
        } else {
            Some(Sharing::Streaming)
        };
        if self.mappings == 0 {
            self.first = mapping.owner.index() as u16;
        }
        self.mappings = self.mappings.saturating_add(1);
        self.coherent = self.coherent.saturating_add(u16::from(is_coherent));
        self.written = self.written.saturating_add(u16::from(writes));
        sharing
    }

    fn take(&mut self, mapping: &Mapping) {
        let writes = mapping.permission.write;
        self.mappings = self.mappings.saturating_sub(1);
        self.coherent = self.coherent.saturating_sub(u16::from(writes && mapping.permission.read));
        self.written = self.written.saturating_sub(u16::from(writes));
    }
}

fn report_shared(
    mapping: &Mapping,
    sharing: Sharing,
    record: &Record,
    reporter: &mut Reporter<'_>,
) {
    let what = match sharing {
        Sharing::Root => "holds the root of a DART's tables".to_owned(),
        Sharing::Coherent { other } => {
            format!(
                "is coherent memory (read-write, as rings are) of {}",
                reporter.description.name_of(other)
            )
        }
        Sharing::Written { other } => {
            format!("is written by {} at the same time", reporter.description.name_of(other))
        }
        Sharing::Streaming if !reporter.reports_hints => {
            return reporter.count(About::mapping(Detector::SharedPage, mapping), record);
        }
        Sharing::Streaming => "is mapped elsewhere too".to_owned(),
    };
    let (detector, so) = match sharing {
        Sharing::Streaming => {
            (Detector::SharedPage, ": two buffers share it, and a device reaches both.")
        }
        _ => (
            Detector::NeighboursExposed,
            ": the device reaches all of the page, not just its buffer.",
        ),
    };
    let message = format!(
        "Guest page {:#x}, mapped at {:#x} for the device to {}, {what}{so}",
        mapping.page.address(),
        mapping.iova.iova(),
        permission(mapping.permission)
    );
    reporter.report(About::mapping(detector, mapping), record, message);
}

fn report_unused(mapping: &Mapping, record: &Record, reporter: &mut Reporter<'_>) {
    if !reporter.reports_hints {
        return reporter.count(About::mapping(Detector::NeverUsed, mapping), record);
    }
    let message = format!(
        "{:#x} (guest page {:#x}) was mapped for the device to write for {}, and no byte of it had changed when it was \
         unmapped.",
        mapping.iova.iova(),
        mapping.page.address(),
        reporter.between(mapping.since.time, record.time())
    );
    reporter.report(About::mapping(Detector::NeverUsed, mapping), record, message);
}
