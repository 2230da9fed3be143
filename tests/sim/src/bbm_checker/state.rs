//! What the checker knows of each table entry, each page and each CPU.

use oche_el2::stage2::entry::Attributes;
use oche_engine::host::CpuAccess;
use oche_types::addr::{Gfn, Hfn};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Entries in a page of tables.
pub(super) const ENTRIES: usize = 512;
/// Bytes of a data cache line on this machine.
pub(super) const LINE_BYTES: u64 = 64;
/// All lines of a page.
pub(super) const ALL_LINES: u64 = u64::MAX;
/// Bits of a valid entry that are software's: 58:55, and 62:59 while `VTCR_EL2.HWU` is clear.
pub(super) const SOFTWARE: u64 = 0xff << 55;
/// Where a VMID is in `VTTBR_EL2`.
pub(super) const VMID_SHIFT: u32 = 48;

/// How far an entry that changed is from being forgotten by every TLB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Stored.
    Stored,
    /// Every walk sees it.
    Ordered,
    /// `TLBI IPAS2E1IS` has begun.
    PageBegun,
    /// It is complete: nothing is left but what combines both stages.
    PageDone,
    /// `TLBI VMALLE1IS` has begun.
    FirstStageBegun,
    /// `TLBI VMALLS12E1IS` has begun.
    AllBegun,
}

/// An entry of which TLBs may still hold an older value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stale {
    pub(super) before: u64,
    pub(super) stage: Stage,
}

/// Which part of guest-physical memory a page of tables is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) level: u8,
    pub(super) first: u64,
}

/// How far a page that EL2 wrote is from being fetched right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetch {
    /// Lines that were cleaned, one bit each.
    Written(u64),
    /// All lines are clean.
    Clean,
    /// `IC IALLUIS` has begun.
    Begun,
    Right,
}

/// What is known of a page of memory that EL2 wrote.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    /// Counts of barriers at the last store: of any kind, and of those for all observers.
    pub(super) at: u64,
    pub(super) at_for_all: u64,
    /// Breaks that were complete at the last store, copy or comparison.
    pub(super) touched: u64,
    pub(super) fetch: Fetch,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) base: u64,
    pub(super) ipa_bits: u32,
    /// First page and number of pages of each run of memory other than the tables.
    pub(super) runs: Vec<(Hfn, u32)>,
    pub(super) words: Vec<Cell<u64>>,
    pub(super) rules: RefCell<Rules>,
    pub(super) violation: RefCell<Option<String>>,
}

#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Of each page of tables that the guest's VMID reaches.
    pub(super) places: Vec<Option<Place>>,
    /// Barriers before the last store into each page of tables.
    pub(super) stored: Vec<u64>,
    pub(super) stale: BTreeMap<usize, Stale>,
    /// Runs of guest pages that every TLB has forgotten since somebody asked.
    pub(super) forgotten: Vec<(u64, u64)>,
    /// Barriers that order stores for the CPUs, and for everybody.
    pub(super) barriers: u64,
    pub(super) barriers_for_all: u64,
    /// Breaks that are complete, all together and for each entry.
    pub(super) completed: u64,
    pub(super) completed_at: HashMap<usize, u64>,
    /// Of each page of memory, in the order of `State::runs`.
    pub(super) written: Vec<Option<Written>>,
    /// The page that was stored to last, if nothing else has happened since.
    pub(super) storing: Option<Hfn>,
    pub(super) fetches: Vec<Hfn>,
    /// `VTTBR_EL2`, once it is set.
    pub(super) tables: Option<u64>,
    /// Pages of tables that only a view reaches, while a CPU may hold translations of it.
    pub(super) view: BTreeSet<usize>,
    pub(super) has_begun_to_forget_view: bool,
}

impl State {
    /// The place of `page` among all memory other than the tables.
    pub(super) fn place(&self, page: Hfn) -> Option<usize> {
        let mut before = 0;
        for (first, count) in &self.runs {
            let offset = page.0.wrapping_sub(first.0);
            if offset < *count {
                return Some((before + offset) as usize);
            }
            before += count;
        }
        None
    }

    pub(super) fn written<'a>(&self, rules: &'a Rules, page: Hfn) -> Option<&'a Written> {
        rules.written.get(self.place(page)?)?.as_ref()
    }

    pub(super) fn written_mut<'a>(
        &self,
        rules: &'a mut Rules,
        page: Hfn,
    ) -> Option<&'a mut Written> {
        rules.written.get_mut(self.place(page)?)?.as_mut()
    }
}

/// Whether two leaves differ in nothing but what CPUs may do: that needs no break, only an
/// invalidation.
pub(super) fn is_permission_alone(old: Attributes, new: Attributes) -> bool {
    old.memory == new.memory && old.access != CpuAccess::None && new.access != CpuAccess::None
}

/// Pages that an entry of `level` covers.
pub(super) fn pages_of(level: u8) -> u64 {
    1 << (9 * (3 - u64::from(level.min(3))))
}

pub(super) fn index_of(page: Gfn, level: u8) -> usize {
    let index = u64::from(page.0) / pages_of(level);
    if level == 1 { index as usize } else { index as usize % ENTRIES }
}
