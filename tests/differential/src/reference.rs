//! The reference, with pages named as the engine names them.

use oche_reference::memory::{self, Page};
use oche_reference::walk;
use oche_types::addr::Gfn;

/// Guest RAM: [`memory::GuestMemory`].
#[derive(Clone, Debug)]
pub struct GuestMemory(memory::GuestMemory);

fn page(gfn: Gfn) -> Page {
    Page(gfn.0)
}

fn gfn(page: Page) -> Gfn {
    Gfn(page.0)
}

impl GuestMemory {
    /// RAM of the `runs` (first page, number of pages), all zeros.
    pub fn new(runs: &[(Gfn, u32)]) -> Self {
        let runs: Vec<_> = runs.iter().map(|&(first, pages)| (page(first), pages)).collect();
        Self(memory::GuestMemory::new(&runs))
    }

    /// The same RAM with whatever content.
    pub fn has_runs(&self, runs: &[(Gfn, u32)]) -> bool {
        let runs: Vec<_> = runs.iter().map(|&(first, pages)| (page(first), pages)).collect();
        self.0.has_runs(&runs)
    }

    /// Whether `at` is RAM.
    pub fn contains(&self, at: Gfn) -> bool {
        self.0.contains(page(at))
    }

    /// The place of `at` among all pages of RAM.
    pub fn number(&self, at: Gfn) -> Option<usize> {
        self.0.number(page(at))
    }

    /// The bytes of `at`.
    pub fn page(&self, at: Gfn) -> Option<&[u8]> {
        self.0.page(page(at))
    }

    /// The bytes of `at` to change.
    pub fn page_mut(&mut self, at: Gfn) -> Option<&mut [u8]> {
        self.0.page_mut(page(at))
    }

    /// Word `word` of `at`.
    pub fn word(&self, at: Gfn, word: usize) -> Option<u64> {
        self.0.word(page(at), word)
    }

    /// Every page of RAM, lowest first in each run.
    pub fn pages(&self) -> impl Iterator<Item = Gfn> {
        self.0.pages().map(gfn)
    }
}

/// A valid leaf entry: [`walk::Leaf`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The page named.
    pub page: Gfn,
    /// Whether devices may read.
    pub read: bool,
    /// Whether devices may write.
    pub write: bool,
    /// Whether the window covers less than the page.
    pub is_narrowed: bool,
}

/// The page that a TTBR names.
pub fn decode_root(ttbr: u32) -> Option<Gfn> {
    walk::decode_root(ttbr).map(gfn)
}

/// The page that a first-level entry names.
pub fn decode_table(entry: u64) -> Option<Gfn> {
    walk::decode_table(entry).map(gfn)
}

/// The leaf that `entry` is, if it is valid.
pub fn decode_leaf(entry: u64) -> Option<Leaf> {
    let walk::Leaf { page, read, write, is_narrowed } = walk::decode_leaf(entry)?;
    Some(Leaf { page: gfn(page), read, write, is_narrowed })
}

/// The leaf entry for `at`, as Linux writes it.
pub fn encode_leaf(at: Gfn, read: bool, write: bool) -> u64 {
    walk::encode_leaf(page(at), read, write)
}

/// The first-level entry for the leaf table in `at`, as Linux writes it.
pub fn encode_table(at: Gfn) -> u64 {
    walk::encode_table(page(at))
}
