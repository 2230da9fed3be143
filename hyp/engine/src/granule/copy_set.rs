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

/// The copies of a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct CopySet {
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

    /// The copies, and last the twin.
    pub(super) fn all(&self) -> impl Iterator<Item = Hfn> {
        self.copies.iter().take(self.count).copied().chain(self.twin)
    }
}
