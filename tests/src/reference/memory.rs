//! The guest's memory as the guest thinks of it: pages with one content each.

use oche_hyp::addr::{Gfn, PAGE_BYTES};

/// Guest RAM: one or more runs of pages, each with its bytes.
#[derive(Clone, Debug)]
pub struct GuestMemory {
    runs: Vec<(Gfn, Vec<u8>)>,
}

impl GuestMemory {
    /// RAM of the `runs` (first page, number of pages), all zeros.
    pub fn new(runs: &[(Gfn, u32)]) -> Self {
        let zeros = |pages: u32| vec![0; pages as usize * PAGE_BYTES];
        Self { runs: runs.iter().map(|&(first, pages)| (first, zeros(pages))).collect() }
    }

    /// The same RAM with whatever content.
    pub fn has_runs(&self, runs: &[(Gfn, u32)]) -> bool {
        let own = self.runs.iter().map(|(first, bytes)| (*first, (bytes.len() / PAGE_BYTES) as u32));
        own.eq(runs.iter().copied())
    }

    /// Whether `page` is RAM.
    pub fn contains(&self, page: Gfn) -> bool {
        self.page(page).is_some()
    }

    /// The place of `page` among all pages of RAM, or `None` where there is none.
    pub fn number(&self, page: Gfn) -> Option<usize> {
        let mut before = 0;
        for (first, bytes) in &self.runs {
            let (offset, pages) = (page.0.wrapping_sub(first.0) as usize, bytes.len() / PAGE_BYTES);
            if offset < pages {
                return Some(before + offset);
            }
            before += pages;
        }
        None
    }

    /// The bytes of `page`, or `None` where there is no RAM.
    pub fn page(&self, page: Gfn) -> Option<&[u8]> {
        self.runs.iter().find_map(|(first, bytes)| {
            let start = page.0.checked_sub(first.0)? as usize * PAGE_BYTES;
            bytes.get(start..start + PAGE_BYTES)
        })
    }

    /// The bytes of `page` to change, or `None` where there is no RAM.
    pub fn page_mut(&mut self, page: Gfn) -> Option<&mut [u8]> {
        self.runs.iter_mut().find_map(|(first, bytes)| {
            let start = page.0.checked_sub(first.0)? as usize * PAGE_BYTES;
            bytes.get_mut(start..start + PAGE_BYTES)
        })
    }

    /// The little-endian 64-bit word `word` (below 512) of `page`, or `None` where there is no RAM.
    pub fn word(&self, page: Gfn, word: usize) -> Option<u64> {
        let bytes = self.page(page)?.get(word * 8..word * 8 + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    /// Every page of RAM, lowest first in each run.
    pub fn pages(&self) -> impl Iterator<Item = Gfn> {
        let run = |(first, bytes): &(Gfn, Vec<u8>)| {
            let first = first.0;
            (0..(bytes.len() / PAGE_BYTES) as u32).map(move |index| Gfn(first + index))
        };
        self.runs.iter().flat_map(run)
    }
}
