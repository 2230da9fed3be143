//! Bytes of which more than one copy may exist, and when all copies must be equal again.
//!
//! A page mapped at two or more IOVAs has copies. CPUs see what any device wrote into any of them,
//! and devices see what CPUs wrote. What remains is a byte that one device wrote and another reads,
//! or writes as well, before a CPU has read it: a flush of a stream that maps the page makes the
//! copies equal. Until then such a byte counts for the copy through which it was written, and
//! through any other a device finds it or what was there before. A byte written through two copies
//! is contested: it has one of the values that were written.

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
const ANY_DEVICE: Viewer = 1;

#[derive(Clone, Debug)]
struct Written {
    by: Viewer,
    at: u64,
    is_contested: bool,
    /// A CPU saw it: a later write comes after.
    is_looked_at: bool,
    /// What a copy may hold beside the value in the guest's memory.
    others: Vec<u8>,
}

/// The bytes whose value depends on who looks.
#[derive(Clone, Debug, Default)]
pub struct Sharing {
    pages: BTreeMap<Gfn, BTreeMap<u16, Written>>,
}

impl Sharing {
    fn byte(&self, page: Gfn, offset: usize) -> Option<&Written> {
        self.pages.get(&page)?.get(&(offset as u16))
    }

    /// A CPU loaded bytes. Returns the offsets of those that were contested: what it saw counts
    /// from now on.
    pub fn look(&mut self, page: Gfn, offset: usize, length: usize) -> Vec<usize> {
        let Some(bytes) = self.pages.get_mut(&page) else {
            return Vec::new();
        };
        let mut contested = Vec::new();
        for (&offset, written) in bytes.range_mut(offset as u16..(offset + length) as u16) {
            written.is_looked_at = true;
            if std::mem::take(&mut written.is_contested) {
                // Where devices write no bounce page, the copies need not be equal.
                written.by = CPU;
                contested.push(usize::from(offset));
            }
        }
        contested
    }

    /// The contested bytes of `page`.
    pub fn contested(&self, page: Gfn) -> Vec<usize> {
        let bytes = self.pages.get(&page).into_iter().flatten();
        let contested = bytes.filter(|(_, written)| written.is_contested);
        contested.map(|(offset, _)| usize::from(*offset)).collect()
    }

    /// What `viewer` may find in the byte at `offset` of `page` beside the value in the guest's
    /// memory.
    pub fn others(&self, page: Gfn, offset: usize, viewer: Viewer) -> &[u8] {
        let is_open = |w: &&Written| w.is_contested || (viewer != CPU && w.by != viewer);
        self.byte(page, offset).filter(is_open).map_or(&[], |written| &written.others)
    }

    /// Whether `page` has such bytes.
    pub fn has(&self, page: Gfn) -> bool {
        self.pages.contains_key(&page)
    }

    /// The pages with such bytes.
    pub fn pages(&self) -> Vec<Gfn> {
        self.pages.keys().copied().collect()
    }

    /// The device `by` wrote into a page that may have copies, over the bytes `old`.
    pub fn write(&mut self, page: Gfn, offset: usize, old: &[u8], by: Viewer, at: u64) {
        let bytes = self.pages.entry(page).or_default();
        for (offset, &old) in (offset as u16..).zip(old) {
            let new = Written { by, at, is_contested: false, is_looked_at: false, others: vec![] };
            let written = bytes.entry(offset).or_insert(new);
            written.is_contested |= written.by != by && !written.is_looked_at;
            (written.by, written.at, written.is_looked_at) = (by, at, false);
            written.add(old);
        }
    }

    /// The bytes `data` may have been written, or not.
    pub fn contest(&mut self, page: Gfn, offset: usize, data: &[u8], at: u64) {
        self.write(page, offset, data, ANY_DEVICE, at);
        let bytes = self.pages.entry(page).or_default();
        for (_, written) in bytes.range_mut(offset as u16..(offset + data.len()) as u16) {
            written.is_contested = true;
        }
    }

    /// Bytes that were written have not arrived: they count as written at `at`.
    pub fn postpone(&mut self, page: Gfn, offset: usize, length: usize, at: u64) {
        let Some(bytes) = self.pages.get_mut(&page) else { return };
        for (_, written) in bytes.range_mut(offset as u16..(offset + length) as u16) {
            written.at = at;
        }
    }

    /// A copy may hold `value` in the byte at `offset` of `page`, which is another by now.
    pub fn keep(&mut self, page: Gfn, offset: usize, value: u8) {
        let bytes = self.pages.get_mut(&page);
        if let Some(written) = bytes.and_then(|bytes| bytes.get_mut(&(offset as u16))) {
            written.add(value);
        }
    }

    /// A CPU stored, into all copies; or a device, where there is but one.
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

    /// All copies of `page` were made equal in a flush begun at `start`: what one device wrote
    /// before is what everybody sees.
    pub fn spread(&mut self, page: Gfn, start: u64) {
        let Some(bytes) = self.pages.get_mut(&page) else { return };
        bytes.retain(|_, w| w.by == CPU || w.is_contested || w.at > start);
        if bytes.is_empty() {
            self.pages.remove(&page);
        }
    }

    /// `page` has one copy again.
    pub fn unite(&mut self, page: Gfn) {
        self.pages.remove(&page);
    }
}

impl Written {
    fn add(&mut self, value: u8) {
        if !self.others.contains(&value) {
            self.others.push(value);
        }
    }
}

/// The viewer that looks through page `iova_page` of the tables of `roots`.
pub fn viewer(roots: Roots, iova_page: u32) -> Viewer {
    let number = roots.iter().fold(0, |number, &root| mix(number ^ u64::from(root)));
    number << 20 | 1 << 63 | u64::from(iova_page)
}
