//! Bytes of which more than one copy may exist, and when all copies must be equal again.
//!
//! A page mapped at two or more IOVAs has copies. CPUs see what any device wrote into any of them,
//! and devices see what CPUs wrote. What remains is a byte that one device wrote and another reads,
//! or writes as well, before a CPU has read it: the engine makes the copies equal, by difference,
//! when one of the page's mappings changes in a flush. Until then such a byte counts for the copy
//! through which it was written, and a byte written through two copies has an unknown value.

use super::history::Roots;
use oche_sim::random::mix;
use oche_types::addr::Gfn;
use std::collections::BTreeMap;

/// Who writes and looks: 0 for CPUs, otherwise a number for each page of IOVAs of each set of
/// tables.
pub type Viewer = u64;

/// The CPUs.
pub const CPU: Viewer = 0;

/// A device that looks through one of a page's copies, whichever.
const LATE: Viewer = 1;

#[derive(Clone, Debug)]
struct Written {
    by: Viewer,
    at: u64,
    is_contested: bool,
    /// A CPU saw it: a later write comes after.
    is_looked_at: bool,
    /// Those who must see it beside the writer.
    seen_by: Vec<Viewer>,
}

impl Written {
    fn new(by: Viewer, at: u64, is_contested: bool) -> Self {
        Self { by, at, is_contested, is_looked_at: false, seen_by: Vec::new() }
    }
}

/// The bytes whose value depends on who looks.
#[derive(Clone, Debug, Default)]
pub struct Sharing {
    pages: BTreeMap<Gfn, BTreeMap<u16, Written>>,
}

impl Sharing {
    /// A CPU loaded bytes. Returns the offsets of those that were unknown.
    pub fn look(&mut self, page: Gfn, offset: usize, length: usize) -> Vec<usize> {
        let Some(bytes) = self.pages.get_mut(&page) else {
            return Vec::new();
        };
        let mut unknown = Vec::new();
        for (&offset, written) in bytes.range_mut(offset as u16..(offset + length) as u16) {
            written.is_looked_at = true;
            if written.is_contested {
                // Known from now on, to CPUs: where devices write no bounce page, the copies need
                // not be equal.
                *written =
                    Written { by: CPU, is_contested: false, seen_by: Vec::new(), ..*written };
                unknown.push(usize::from(offset));
            }
        }
        unknown
    }

    /// Whether the byte at `offset` of `page` may differ, for `viewer`, from what was stored last.
    pub fn is_vague(&self, page: Gfn, offset: usize, viewer: Viewer) -> bool {
        let written = self.pages.get(&page).and_then(|bytes| bytes.get(&(offset as u16)));
        written.is_some_and(|w| {
            w.is_contested || (viewer != CPU && w.by != viewer && !w.seen_by.contains(&viewer))
        })
    }

    /// Whether `page` has such bytes.
    pub fn has(&self, page: Gfn) -> bool {
        self.pages.contains_key(&page)
    }

    /// The pages with such bytes.
    pub fn pages(&self) -> Vec<Gfn> {
        self.pages.keys().copied().collect()
    }

    /// `by` wrote bytes of a page that may have copies.
    pub fn write(&mut self, page: Gfn, offset: usize, length: usize, by: Viewer, at: u64) {
        if by == CPU {
            return self.clear(page, offset, length);
        }
        let bytes = self.pages.entry(page).or_default();
        for offset in offset..offset + length {
            let before = bytes.get(&(offset as u16));
            let is_contested = before.is_some_and(|before| {
                before.is_contested || (before.by != by && !before.is_looked_at)
            });
            bytes.insert(offset as u16, Written::new(by, at, is_contested));
        }
    }

    /// Bytes were on their way when the page came to have copies: only the copy that they go to has
    /// them.
    pub fn arrive_late(&mut self, page: Gfn, offset: usize, length: usize, at: u64) {
        let bytes = self.pages.entry(page).or_default();
        for offset in offset..offset + length {
            bytes.entry(offset as u16).or_insert(Written::new(LATE, at, false));
        }
    }

    /// These bytes are unknown now.
    pub fn contest(&mut self, page: Gfn, offset: usize, length: usize, at: u64) {
        let bytes = self.pages.entry(page).or_default();
        for offset in offset..offset + length {
            bytes.insert(offset as u16, Written::new(CPU, at, true));
        }
    }

    /// Bytes of a page with a single copy were written: they are known again.
    pub fn clear(&mut self, page: Gfn, offset: usize, length: usize) {
        if let Some(bytes) = self.pages.get_mut(&page) {
            for offset in offset..offset + length {
                bytes.remove(&(offset as u16));
            }
            if bytes.is_empty() {
                self.pages.remove(&page);
            }
        }
    }

    /// A mapping of `page` came or went in a flush begun at `start`: what was written before, by
    /// one, CPUs see, and so does the newly mapped `viewer`. This is what the DMA API asks for:
    /// data is written before it is mapped and read after it is unmapped.
    pub fn equalize(
        &mut self,
        page: Gfn,
        start: u64,
        viewer: Option<Viewer>,
        is_under_way: impl Fn(usize) -> bool,
    ) {
        for (&offset, written) in self.pages.get_mut(&page).into_iter().flatten() {
            if !written.is_contested && written.at <= start && !is_under_way(usize::from(offset)) {
                written.seen_by.extend([CPU].into_iter().chain(viewer));
            }
        }
    }

    /// All copies of `page` were made equal in a flush begun at `start`: what one device wrote
    /// before is what everybody sees. (What CPUs stored is, too, where a device writes the page at
    /// all.)
    pub fn spread(&mut self, page: Gfn, start: u64, is_under_way: impl Fn(usize) -> bool) {
        let Some(bytes) = self.pages.get_mut(&page) else { return };
        bytes.retain(|&offset, written| {
            let is_known = written.by > LATE && !written.is_contested;
            !is_known || written.at > start || is_under_way(usize::from(offset))
        });
        if bytes.is_empty() {
            self.pages.remove(&page);
        }
    }

    /// `page` has one copy again. Returns the offsets of the unknown bytes.
    pub fn unite(&mut self, page: Gfn) -> Vec<usize> {
        let bytes = self.pages.remove(&page).unwrap_or_default();
        bytes
            .into_iter()
            .filter(|(_, w)| w.is_contested)
            .map(|(offset, _)| usize::from(offset))
            .collect()
    }
}

/// The viewer that looks through page `iova_page` of the tables of `roots`.
pub fn viewer(roots: Roots, iova_page: u32) -> Viewer {
    let number = roots.iter().fold(0, |number, &root| mix(number ^ u64::from(root)));
    number << 20 | 1 << 63 | u64::from(iova_page)
}
