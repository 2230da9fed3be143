//! Host memory of the simulated machine: guest RAM at home, and the engine's pool.

use crate::setup::Layout;
use oche_types::addr::{Hfn, PAGE_BYTES, PAGE_WORDS, SLOTS};
use std::cell::Cell;
use std::ops::Range;

/// All host memory, page after page.
///
/// A page that was filled with one value has that value and no words until something else is
/// stored. Each page counts its changes, so that code that compared it once knows whether it is
/// still the same.
pub struct HostMemory {
    /// First page and number of pages of each run, in the order in which they lie in `words`.
    runs: Vec<(u32, u32)>,
    words: Vec<u64>,
    /// Per page: [`OWN_WORDS`], or the place in `constants` of the page that it equals.
    contents: Vec<u8>,
    constants: Vec<Box<[u64; PAGE_WORDS]>>,
    changes: Vec<u32>,
    ram_runs: usize,
    /// Pages whose words are those that [`Self::initialize`] would give them.
    initial: Vec<bool>,
    /// Per page: a page with which it was found equal, and how often both had changed then.
    equal: Vec<Cell<Option<(usize, u32, u32)>>>,
}

/// Words of a machine that has ended, for the next with the same RAM: new memory from the system,
/// and its content, cost more than a short program.
#[derive(Default)]
pub struct FormerWords {
    words: Vec<u64>,
    initial: Vec<bool>,
}

/// The page's words are its own.
const OWN_WORDS: u8 = u8::MAX;

impl HostMemory {
    /// Memory of `layout`, all zeros. `former` had the same RAM, or is empty.
    pub fn new(layout: &Layout, former: FormerWords) -> Self {
        let mut runs: Vec<_> =
            layout.ram.iter().map(|&(first, pages)| (first.home().0, pages)).collect();
        let ram_runs = runs.len();
        let slots = SLOTS as u32;
        runs.push((layout.pool.start.0 * slots, (layout.pool.end.0 - layout.pool.start.0) * slots));
        let pages = runs.iter().map(|(_, pages)| *pages as usize).sum::<usize>();
        let FormerWords { mut words, initial } = former;
        words.resize(words.len().max(pages * PAGE_WORDS), 0);
        let constants = vec![Box::new([0; PAGE_WORDS])];
        Self {
            runs,
            words,
            contents: vec![0; pages],
            constants,
            changes: vec![0; pages],
            ram_runs,
            initial,
            equal: vec![Cell::default(); pages],
        }
    }

    /// The words, to be used again, if every page of RAM was initialised.
    pub fn take_words(&mut self) -> FormerWords {
        let ram: u32 = self.runs[..self.ram_runs].iter().map(|(_, pages)| pages).sum();
        let initial = self.changes[..ram as usize].iter().map(|changes| *changes == 1).collect();
        FormerWords { words: std::mem::take(&mut self.words), initial }
    }

    /// Gives the page of RAM in place `index`, of which nothing was stored yet, its first content.
    pub fn initialize(&mut self, index: usize, content: impl Iterator<Item = u64>) {
        if self.initial.get(index) == Some(&true) {
            self.contents[index] = OWN_WORDS;
            self.changes[index] += 1;
            return;
        }
        for (own, word) in self.page_mut(index).iter_mut().zip(content) {
            *own = word;
        }
    }

    /// Pages of memory.
    pub fn pages(&self) -> usize {
        self.contents.len()
    }

    /// The place of `page`, counted in pages, or `None` where there is no memory.
    #[inline]
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

    /// How often the page in place `index` has changed: the same number, the same bytes.
    pub fn changes(&self, index: usize) -> u32 {
        self.changes[index]
    }

    /// Whether the pages in two places were found equal, and neither has changed since.
    pub fn are_known_equal(&self, one: usize, other: usize) -> bool {
        self.equal[other].get() == Some((one, self.changes[one], self.changes[other]))
    }

    /// The pages in two places are equal.
    pub fn note_equal(&self, one: usize, other: usize) {
        self.equal[other].set(Some((one, self.changes[one], self.changes[other])));
    }

    /// The words of the page in place `index`.
    #[inline]
    pub fn page(&self, index: usize) -> &[u64; PAGE_WORDS] {
        let constant = self.contents[index];
        if constant != OWN_WORDS {
            return &self.constants[usize::from(constant)];
        }
        let words = &self.words[index * PAGE_WORDS..(index + 1) * PAGE_WORDS];
        words.try_into().expect("a page has that many words")
    }

    /// The words of the page in place `index`, to change.
    #[inline]
    pub fn page_mut(&mut self, index: usize) -> &mut [u64; PAGE_WORDS] {
        let words = &mut self.words[index * PAGE_WORDS..(index + 1) * PAGE_WORDS];
        let words: &mut [u64; PAGE_WORDS] = words.try_into().expect("a page has that many words");
        let constant = std::mem::replace(&mut self.contents[index], OWN_WORDS);
        if constant != OWN_WORDS {
            words.copy_from_slice(&*self.constants[usize::from(constant)]);
        }
        self.changes[index] += 1;
        words
    }

    /// The first word from `word` on of the page in place `index` that is not `value`.
    pub fn first_other(&self, index: usize, value: u64, word: usize) -> Option<usize> {
        let words = self.page(index).get(word..)?;
        let constant = self.contents[index];
        let is_constant =
            constant != OWN_WORDS && self.constants[usize::from(constant)][0] == value;
        // Nearly always no word differs, and that is found out much faster at once.
        if is_constant || words.iter().fold(0, |all, found| all | (found ^ value)) == 0 {
            return None;
        }
        words.iter().position(|found| *found != value).map(|index| word + index)
    }

    /// Word `word` of the page in place `index`.
    #[inline]
    pub fn word(&self, index: usize, word: usize) -> u64 {
        self.page(index)[word]
    }

    /// Stores a word.
    #[inline]
    pub fn set_word(&mut self, index: usize, word: usize, value: u64) {
        self.page_mut(index)[word] = value;
    }

    /// Fills a page.
    pub fn fill(&mut self, index: usize, value: u64) {
        self.changes[index] += 1;
        let known = self.constants.iter().position(|constant| constant[0] == value);
        let constant = known.unwrap_or_else(|| {
            self.constants.push(Box::new([value; PAGE_WORDS]));
            self.constants.len() - 1
        });
        if constant < usize::from(OWN_WORDS) {
            self.contents[index] = constant as u8;
        } else {
            self.constants.pop();
            self.page_mut(index).fill(value);
        }
    }

    /// Copies a page.
    pub fn copy(&mut self, from: usize, to: usize) {
        self.changes[to] += 1;
        self.contents[to] = self.contents[from];
        if self.contents[from] == OWN_WORDS {
            self.words.copy_within(from * PAGE_WORDS..(from + 1) * PAGE_WORDS, to * PAGE_WORDS);
        }
    }

    /// Copies `words` of a page.
    pub fn copy_words(&mut self, from: usize, to: usize, words: Range<usize>) {
        let constant = self.contents[from];
        self.page_mut(to);
        if constant == OWN_WORDS {
            let start = from * PAGE_WORDS;
            self.words
                .copy_within(start + words.start..start + words.end, to * PAGE_WORDS + words.start);
        } else {
            let constant = &self.constants[usize::from(constant)][words.clone()];
            self.words[to * PAGE_WORDS..][words].copy_from_slice(constant);
        }
    }

    /// Reads bytes of the page in place `index` from `offset` on.
    pub fn get_bytes(&self, index: usize, offset: usize, bytes: &mut [u8]) {
        let page = self.page(index);
        for (at, byte) in (offset..PAGE_BYTES).zip(bytes) {
            *byte = (page[at / 8] >> (at % 8 * 8)) as u8;
        }
    }

    /// Stores bytes into the page in place `index` from `offset` on.
    pub fn set_bytes(&mut self, index: usize, offset: usize, bytes: &[u8]) {
        let page = self.page_mut(index);
        let end = PAGE_BYTES.min(offset + bytes.len());
        for (word, value) in page.iter_mut().enumerate().take(end.div_ceil(8)).skip(offset / 8) {
            let mut own = value.to_le_bytes();
            let (first, last) = (offset.max(word * 8), end.min(word * 8 + 8));
            own[first - word * 8..last - word * 8]
                .copy_from_slice(&bytes[first - offset..last - offset]);
            *value = u64::from_le_bytes(own);
        }
    }
}
