//! The copies of the pages that CPUs accessed last.
//!
//! An access to a trapped page needs the page's trap, its twin and the place of each copy. They are
//! found in the page's list of mappings and in the granule of each. CPUs mostly access the same
//! pages many times before a mapping changes, so what was found is kept. It is valid as long as the
//! state of no page and of no granule has changed: [`Mover::version`] and [`GranuleMap::version`]
//! count these changes, whatever they are.
//!
//! [`Mover::version`]: crate::mover::Mover::version
//! [`GranuleMap::version`]: crate::granule::state::GranuleMap::version

use oche_types::Invariant;
use oche_types::addr::{Gfn, Hfn};

use crate::host::Memory;
use crate::mover::CpuTrap;

/// Most copies of a page in a set, the page itself included. A page with more is searched for at
/// each access.
const MAX_COPIES: usize = 6;
/// Number of sets, which pages share by their numbers.
const SETS: usize = 16;
/// A version that never is.
const NEVER: u64 = u64::MAX;

/// The parts of a CPU's load or store, one for each register, side by side in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Number of bytes of each: 1 to 8.
    pub bytes: usize,
    /// How many there are: 1 or 2.
    pub count: usize,
}

impl Parts {
    /// The offset of the last part, if the first one is at `offset`.
    pub fn last(self, offset: usize) -> usize {
        if self.count == 2 { offset + self.bytes } else { offset }
    }
}

/// The copies of a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopySet {
    page: Gfn,
    /// When it was found.
    version: u64,
    /// The trap that the page has, if it is the trap that it needs and the page holds no tracked
    /// table; otherwise none.
    pub(super) trap: CpuTrap,
    pub(super) twin: Option<Hfn>,
    /// The page itself, then the bounce pages that a device may write, then the others.
    copies: [Hfn; MAX_COPIES],
    written: usize,
    count: usize,
}

/// The sets that were found last.
#[derive(Debug)]
pub(super) struct CopySets([CopySet; SETS]);

impl CopySets {
    pub(super) const fn new() -> Self {
        let none = CopySet {
            page: Gfn(0),
            version: NEVER,
            trap: CpuTrap::None,
            twin: None,
            copies: [Hfn(0); MAX_COPIES],
            written: 0,
            count: 0,
        };
        Self([none; SETS])
    }

    #[inline]
    fn place(&self, page: Gfn) -> &CopySet {
        self.0.get(page.0 as usize % SETS).must("a remainder is below its divisor")
    }

    /// The set of `page`, if it was found in `version`.
    #[inline]
    pub(super) fn get(&self, page: Gfn, version: u64) -> Option<&CopySet> {
        let set = self.place(page);
        (set.page == page && set.version == version).then_some(set)
    }

    /// Keeps `set` instead of another page's.
    pub(super) fn keep(&mut self, set: CopySet) {
        let place = self.0.get_mut(set.page.0 as usize % SETS);
        *place.must("a remainder is below its divisor") = set;
    }
}

impl CopySet {
    /// A set that holds `page` itself alone, at `primary`.
    pub(super) fn new(page: Gfn, version: u64, primary: Hfn) -> Self {
        let mut copies = [Hfn(0); MAX_COPIES];
        copies[0] = primary;
        Self { page, version, trap: CpuTrap::None, twin: None, copies, written: 1, count: 1 }
    }

    /// Adds a bounce page; all that a device may write come first. Returns false if there is no
    /// room.
    #[must_use]
    pub(super) fn add(&mut self, bounce: Hfn, is_written: bool) -> bool {
        let Some(place) = self.copies.get_mut(self.count) else { return false };
        *place = bounce;
        self.count += 1;
        self.written += usize::from(is_written);
        true
    }

    /// The word of the page, or `None` if a copy differs from the twin in it.
    #[inline]
    pub(super) fn load(&self, memory: &impl Memory, word: usize) -> Option<u64> {
        let (primary, written) = self.copies.split_first().must("there is a copy");
        let value = memory.load(*primary, word);
        let Some(twin) = self.twin else { return Some(value) };
        let old = memory.load(twin, word);
        let mut differing = value ^ old;
        for copy in written.iter().take(self.written.saturating_sub(1)) {
            differing |= memory.load(*copy, word) ^ old;
        }
        (differing == 0).then_some(value)
    }

    /// Loads `parts` at `offset`, or gives `None` if a copy differs from the twin in a word of
    /// them, or if they are not aligned.
    #[inline]
    pub(crate) fn load_parts(
        &self,
        memory: &impl Memory,
        offset: usize,
        parts: Parts,
    ) -> Option<[u64; 2]> {
        let first = self.load_part(memory, offset, parts.bytes)?;
        let second = match parts.count {
            2 => self.load_part(memory, parts.last(offset), parts.bytes)?,
            _ => 0,
        };
        Some([first, second])
    }

    #[inline]
    fn load_part(&self, memory: &impl Memory, offset: usize, bytes: usize) -> Option<u64> {
        if !is_aligned(offset, bytes) {
            return None;
        }
        let word = self.load(memory, offset / 8)?;
        if bytes == 8 {
            return Some(word);
        }
        Some(word >> (8 * (offset % 8)) & !(u64::MAX << (8 * (bytes % 8))))
    }

    /// Stores `parts` with `values` at `offset` into all copies and the twin. Returns false, and
    /// does nothing, if they are not aligned.
    ///
    /// No merge is needed before, whichever copy a device writes meanwhile. For each byte, with the
    /// engine's lock held, so that no merge comes in between:
    /// - *Not stored here:* it changes in no copy and not in the twin, because each part is one
    ///   store of its own bytes. A device's write waits for a merge as before.
    /// - *Stored here, and written by a device before the store reaches its copy:* the write is
    ///   overwritten there. Other copies have it from an earlier merge or not at all, and are
    ///   overwritten too. A merge directly before the store would end alike: first the device's
    ///   write, then the CPU's.
    /// - *Stored here, and written by a device later:* the write stays in its copy. It differs from
    ///   the twin, which has the CPU's value, and is merged later, or it equals the CPU's value.
    ///
    /// This looks at one copy and the twin, so it holds for any number of copies and any order of
    /// the stores. The page itself is a copy like the others, also if it is pinned and an
    /// untranslated bus master writes it. In a bounce page that devices may only read, nothing is
    /// merged, with or without a merge before. Without a twin there are no merges.
    #[inline]
    pub(crate) fn store_parts(
        &self,
        memory: &mut impl Memory,
        offset: usize,
        parts: Parts,
        values: [u64; 2],
    ) -> bool {
        if !is_aligned(offset, parts.bytes) {
            return false;
        }
        if parts.bytes != 8 {
            self.store_narrow(memory, offset, parts, values);
            return true;
        }
        let word = offset / 8;
        let mut store = |to| {
            memory.store(to, word, values[0]);
            if parts.count == 2 {
                memory.store(to, word + 1, values[1]);
            }
        };
        let (primary, others) = self.copies.split_first().must("there is a copy");
        store(*primary);
        others.iter().take(self.count.saturating_sub(1)).for_each(|to| store(*to));
        self.twin.into_iter().for_each(store);
        true
    }

    #[inline(never)]
    fn store_narrow(
        &self,
        memory: &mut impl Memory,
        offset: usize,
        parts: Parts,
        values: [u64; 2],
    ) {
        let width_log2 = parts.bytes.trailing_zeros() as u8;
        for to in self.all() {
            memory.store_aligned(to, offset, width_log2, values[0]);
            if parts.count == 2 {
                memory.store_aligned(to, parts.last(offset), width_log2, values[1]);
            }
        }
    }

    /// The copies, and last the twin.
    #[inline]
    pub(super) fn all(&self) -> impl Iterator<Item = Hfn> {
        self.copies.iter().take(self.count).copied().chain(self.twin)
    }
}

/// Whether a part of `bytes` bytes at `offset` is one store of memory.
#[inline]
fn is_aligned(offset: usize, bytes: usize) -> bool {
    matches!(bytes, 1 | 2 | 4 | 8) && offset & (bytes - 1) == 0
}

#[cfg(test)]
mod tests;
