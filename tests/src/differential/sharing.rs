//! Bytes of which more than one copy may exist, and when all copies must be equal again.
//!
//! A page mapped at two or more IOVAs has copies that the engine makes equal, by difference, when one of the
//! page's mappings changes in a sync. Until then a byte written through one copy counts for that one only,
//! and a byte written through two of them is whatever it becomes.

use oche_hyp::addr::Gfn;
use std::collections::BTreeMap;

/// Who wrote: 0 for CPUs, otherwise a number for each stream and page of IOVAs.
pub type Writer = u64;

/// The CPUs.
pub const CPU: Writer = 0;

#[derive(Clone, Copy, Debug)]
struct Written {
    by: Writer,
    at: u64,
    is_contested: bool,
}

/// The bytes whose value depends on who looks.
#[derive(Clone, Debug, Default)]
pub struct Sharing {
    pages: BTreeMap<Gfn, BTreeMap<u16, Written>>,
}

impl Sharing {
    /// Whether the byte at `offset` of `page` may differ from what was stored last.
    pub fn is_vague(&self, page: Gfn, offset: usize) -> bool {
        self.pages.get(&page).is_some_and(|bytes| bytes.contains_key(&(offset as u16)))
    }

    /// Whether any byte of `page` may.
    pub fn has_vague(&self, page: Gfn) -> bool {
        self.pages.contains_key(&page)
    }

    /// The pages with such bytes.
    pub fn pages(&self) -> Vec<Gfn> {
        self.pages.keys().copied().collect()
    }

    /// `by` wrote bytes of a page that may have copies.
    pub fn write(&mut self, page: Gfn, offset: usize, length: usize, by: Writer, at: u64) {
        let bytes = self.pages.entry(page).or_default();
        for offset in offset..offset + length {
            bytes
                .entry(offset as u16)
                .and_modify(|written| {
                    written.is_contested |= written.by != by;
                    written.at = at;
                })
                .or_insert(Written { by, at, is_contested: false });
        }
    }

    /// Nobody knows what these bytes are now.
    pub fn contest(&mut self, page: Gfn, offset: usize, length: usize, at: u64) {
        let bytes = self.pages.entry(page).or_default();
        for offset in offset..offset + length {
            bytes.insert(offset as u16, Written { by: CPU, at, is_contested: true });
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

    /// The copies of `page` were made equal at `start`: what was written before by one writer counts for all.
    pub fn equalize(&mut self, page: Gfn, start: u64, is_under_way: impl Fn(usize) -> bool) {
        if let Some(bytes) = self.pages.get_mut(&page) {
            bytes.retain(|&offset, written| {
                written.is_contested || written.at > start || is_under_way(usize::from(offset))
            });
            if bytes.is_empty() {
                self.pages.remove(&page);
            }
        }
    }

    /// `page` has one copy again. Returns the offsets of the bytes that nobody knows.
    pub fn unite(&mut self, page: Gfn) -> Vec<usize> {
        let bytes = self.pages.remove(&page).unwrap_or_default();
        bytes.into_iter().filter(|(_, w)| w.is_contested).map(|(offset, _)| usize::from(offset)).collect()
    }
}
