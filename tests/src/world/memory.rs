//! Host memory of the simulated machine: guest RAM at home, and the engine's pool.

use super::Layout;
use oche_hyp::addr::{Hfn, PAGE_BYTES, PAGE_WORDS, SLOTS};

/// All host memory, page after page.
pub struct HostMemory {
    /// First page and number of pages of each run, in the order in which they lie in `words`.
    runs: Vec<(u32, u32)>,
    words: Vec<u64>,
    ram_runs: usize,
}

impl HostMemory {
    /// Memory of `layout`, all zeros.
    pub fn new(layout: &Layout) -> Self {
        let mut runs: Vec<_> = layout.ram.iter().map(|&(first, pages)| (first.home().0, pages)).collect();
        let ram_runs = runs.len();
        let slots = SLOTS as u32;
        runs.push((layout.pool.start.0 * slots, (layout.pool.end.0 - layout.pool.start.0) * slots));
        let pages: u32 = runs.iter().map(|(_, pages)| pages).sum();
        Self { runs, words: vec![0; pages as usize * PAGE_WORDS], ram_runs }
    }

    /// Pages of memory.
    pub fn pages(&self) -> usize {
        self.words.len() / PAGE_WORDS
    }

    /// The place of `page`, counted in pages, or `None` where there is no memory.
    pub fn index(&self, page: Hfn) -> Option<usize> {
        let mut before = 0;
        for &(first, pages) in &self.runs {
            let offset = page.0.wrapping_sub(first);
            if offset < pages {
                return Some((before + offset) as usize);
            }
            before += pages;
        }
        None
    }

    /// Whether `page` is the home of a guest page.
    pub fn is_ram(&self, page: Hfn) -> bool {
        self.runs[..self.ram_runs].iter().any(|&(first, pages)| page.0.wrapping_sub(first) < pages)
    }

    /// Word `word` of the page in place `index`.
    pub fn word(&self, index: usize, word: usize) -> u64 {
        self.words[index * PAGE_WORDS + word]
    }

    /// Stores a word.
    pub fn set_word(&mut self, index: usize, word: usize, value: u64) {
        self.words[index * PAGE_WORDS + word] = value;
    }

    /// The words of the page in place `index`.
    pub fn page(&self, index: usize) -> &[u64] {
        &self.words[index * PAGE_WORDS..(index + 1) * PAGE_WORDS]
    }

    /// Copies a page.
    pub fn copy(&mut self, from: usize, to: usize) {
        self.words.copy_within(from * PAGE_WORDS..(from + 1) * PAGE_WORDS, to * PAGE_WORDS);
    }

    /// Fills the page in place `index`.
    pub fn fill(&mut self, index: usize, value: u64) {
        self.words[index * PAGE_WORDS..(index + 1) * PAGE_WORDS].fill(value);
    }

    /// Reads bytes of the page in place `index` from `offset` on.
    pub fn get_bytes(&self, index: usize, offset: usize, bytes: &mut [u8]) {
        for (at, byte) in (offset..PAGE_BYTES).zip(bytes) {
            *byte = (self.word(index, at / 8) >> (at % 8 * 8)) as u8;
        }
    }

    /// Stores bytes into the page in place `index` from `offset` on.
    pub fn set_bytes(&mut self, index: usize, offset: usize, bytes: &[u8]) {
        for (at, &byte) in (offset..PAGE_BYTES).zip(bytes) {
            let shift = at % 8 * 8;
            let word = self.word(index, at / 8) & !(0xff << shift) | u64::from(byte) << shift;
            self.set_word(index, at / 8, word);
        }
    }
}
