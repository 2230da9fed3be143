//! The guest's memory as the guest sees it: each page has one content.

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;

/// Number of a page of guest-physical memory: its address divided by [`PAGE_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Page(pub u32);

impl Page {
    /// Address of its first byte, below 2^44.
    pub fn address(self) -> u64 {
        u64::from(self.0) * PAGE_BYTES as u64
    }
}

/// Guest RAM: one or more runs of pages, each with its bytes.
#[derive(Clone, Debug)]
pub struct GuestMemory {
    runs: Vec<(Page, Vec<u8>)>,
}

impl GuestMemory {
    /// RAM of the `runs` (first page, number of pages), all zeros.
    pub fn new(runs: &[(Page, u32)]) -> Self {
        let zeros = |pages: u32| vec![0; pages as usize * PAGE_BYTES];
        Self { runs: runs.iter().map(|&(first, pages)| (first, zeros(pages))).collect() }
    }

    /// The same RAM with whatever content.
    pub fn has_runs(&self, runs: &[(Page, u32)]) -> bool {
        let own =
            self.runs.iter().map(|(first, bytes)| (*first, (bytes.len() / PAGE_BYTES) as u32));
        own.eq(runs.iter().copied())
    }

    /// Whether `page` is RAM.
    pub fn contains(&self, page: Page) -> bool {
        self.page(page).is_some()
    }

    /// The place of `page` among all pages of RAM, or `None` where there is none.
    pub fn number(&self, page: Page) -> Option<usize> {
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
    pub fn page(&self, page: Page) -> Option<&[u8]> {
        self.runs.iter().find_map(|(first, bytes)| {
            let start = page.0.checked_sub(first.0)? as usize * PAGE_BYTES;
            bytes.get(start..start + PAGE_BYTES)
        })
    }

    /// The bytes of `page` to change, or `None` where there is no RAM.
    pub fn page_mut(&mut self, page: Page) -> Option<&mut [u8]> {
        self.runs.iter_mut().find_map(|(first, bytes)| {
            let start = page.0.checked_sub(first.0)? as usize * PAGE_BYTES;
            bytes.get_mut(start..start + PAGE_BYTES)
        })
    }

    /// The little-endian 64-bit word `word` (below 512) of `page`, or `None` where there is no RAM.
    pub fn word(&self, page: Page, word: usize) -> Option<u64> {
        let bytes = self.page(page)?.get(word * 8..word * 8 + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    /// Stores the little-endian 64-bit word `word` (below 512) of `page`. Whether there is RAM.
    pub fn set_word(&mut self, page: Page, word: usize, value: u64) -> bool {
        let Some(bytes) =
            self.page_mut(page).and_then(|bytes| bytes.get_mut(word * 8..word * 8 + 8))
        else {
            return false;
        };
        bytes.copy_from_slice(&value.to_le_bytes());
        true
    }

    /// Every page of RAM, lowest first in each run.
    pub fn pages(&self) -> impl Iterator<Item = Page> {
        let run = |(first, bytes): &(Page, Vec<u8>)| {
            let first = first.0;
            (0..(bytes.len() / PAGE_BYTES) as u32).map(move |index| Page(first + index))
        };
        self.runs.iter().flat_map(run)
    }
}
