//! The state of the CPUs: the stage 2 that runs at EL2, under a checker, and translations that stay
//! until they are flushed.

use crate::bbm_checker::BbmChecker;
use crate::memory::HostMemory;
use crate::random::Random;
use crate::setup::Layout;
use oche_el2::stage2::entry::Entry as Descriptor;
use oche_el2::stage2::hardware::Hardware as _;
use oche_el2::stage2::{Lookup, Stage2};
use oche_engine::host::CpuAccess;
use oche_types::addr::{Gfn, Hfn, SLOTS};
use oche_types::range::PhysRange;

/// A place in host memory, if there is one, and how often it has been stored into.
pub type PageState = Option<(usize, u32)>;

/// Where a page's change stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Live,
    Broken,
    Flushed,
    /// Made, and not yet published.
    Made,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) at: Hfn,
    pub(crate) is_prepared: bool,
    pub(crate) phase: Phase,
    /// Whether the hardware was invalidated while the page was broken.
    pub(crate) waited_for_drain: bool,
}

/// What a CPU has cached of a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Translation {
    pub(crate) page: Gfn,
    pub(crate) at: Hfn,
    pub(crate) access: CpuAccess,
}

/// Stage 2 and every CPU's cached translations of it.
pub struct CpuTables {
    /// First page and number of pages of each run of guest RAM.
    ram: Vec<(Gfn, u32)>,
    /// Of each page of guest RAM, in the order of `ram`, in which the pages' homes lie in host
    /// memory too.
    pub(crate) entries: Vec<Entry>,
    /// Which guest page lies in each page of host memory, as far as CPUs know.
    pub(crate) owners: Vec<Option<Gfn>>,
    /// Of each CPU, by page.
    pub(crate) cached: Vec<Vec<Translation>>,
    pub(crate) moving: Vec<Gfn>,
    /// Whether a live move was reported since the last page was made.
    pub(crate) has_live_move: bool,
    pub(crate) stage2: Stage2<BbmChecker>,
    checker: BbmChecker,
    /// What walks find where they may find more than one thing.
    walks: Random,
    /// The page that was made last: a CPU may fetch from it.
    pub(crate) made: Option<Gfn>,
}

impl CpuTables {
    /// What a walk of the tables finds now: with stores still on their way, the older entry as
    /// well.
    pub(crate) fn walk(&mut self, page: Gfn) -> Lookup {
        let older = self.checker.older_leaf(page).filter(|_| self.walks.chance(1, 2));
        if let Some(Descriptor::Leaf { at, attributes }) = older {
            return Lookup::Mapped {
                at,
                access: attributes.access,
                no_execute: attributes.no_execute,
            };
        }
        self.stage2.root().lookup(&self.checker, page)
    }

    /// Now and then a CPU executes a page that moved, which faults, and is let through as it is at
    /// EL2.
    pub(crate) fn fetch(&mut self) {
        let Some(page) = self.made.take().filter(|_| self.walks.chance(1, 4)) else { return };
        let root = self.stage2.root();
        if let Lookup::Mapped {
            access: CpuAccess::ReadWrite | CpuAccess::ReadOnly,
            no_execute: true,
            ..
        } = root.lookup(&self.checker, page)
        {
            root.allow_execute(&self.checker, page, 0);
        }
    }

    /// Everything at home, for `cpus` CPUs.
    pub fn new(layout: &Layout, host_pages: usize, cpus: usize) -> Self {
        let mut entries = Vec::new();
        let mut owners = vec![None; host_pages];
        let ram = layout.ram.iter().flat_map(|&(first, pages)| (first.0..first.0 + pages).map(Gfn));
        for (index, page) in ram.enumerate() {
            entries.push(Entry {
                at: page.home(),
                is_prepared: false,
                phase: Phase::Live,
                waited_for_drain: false,
            });
            owners[index] = Some(page);
        }
        let mut runs: Vec<_> =
            layout.ram.iter().map(|&(first, pages)| (first.home(), pages)).collect();
        runs.push((
            layout.pool.start.page(0),
            (layout.pool.end.0 - layout.pool.start.0) * SLOTS as u32,
        ));
        let checker = BbmChecker::new(TABLES, tables(layout), IPA_BITS, runs);
        let cached = vec![Vec::new(); cpus];
        let stage2 = boot(layout, &checker);
        Self {
            ram: layout.ram.clone(),
            entries,
            owners,
            cached,
            moving: Vec::new(),
            has_live_move: false,
            stage2,
            checker,
            walks: Random::new(1),
            made: None,
        }
    }

    fn place(&self, page: Gfn) -> Option<usize> {
        let mut before = 0;
        for &(first, pages) in &self.ram {
            let offset = page.0.wrapping_sub(first.0);
            if offset < pages {
                return Some((before + offset) as usize);
            }
            before += pages;
        }
        None
    }

    pub(crate) fn entry(&self, page: Gfn) -> Option<&Entry> {
        self.entries.get(self.place(page)?)
    }

    pub(crate) fn entry_mut(&mut self, page: Gfn) -> Option<&mut Entry> {
        let place = self.place(page)?;
        self.entries.get_mut(place)
    }

    /// Who watches what is done to the tables.
    pub fn checker(&self) -> &BbmChecker {
        &self.checker
    }

    /// Records that the hardware was invalidated: CPUs wait for it in broken pages.
    pub(crate) fn note_drain(&mut self) {
        for index in 0..self.moving.len() {
            if let Some(entry) = self.entry_mut(self.moving[index]) {
                entry.waited_for_drain |= entry.phase != Phase::Made;
            }
        }
    }

    /// The guest page that CPUs find at `at`, or may still find there.
    pub fn found_at(&self, memory: &HostMemory, at: Hfn) -> Option<Gfn> {
        let page = self.owners[memory.index(at)?]?;
        self.entry(page)
            .filter(|entry| entry.at == at && entry.phase != Phase::Flushed)
            .map(|_| page)
    }
}

/// Where the tables lie, and how long guest-physical addresses are.
const TABLES: u64 = 1 << 40;
const IPA_BITS: u32 = 36;
/// Pages that a block of level 1 and one of level 2 hold.
const BLOCKS: [u32; 2] = [1 << 18, 1 << 9];

/// Pages of tables that are enough to give every page an entry of its own.
fn tables(layout: &Layout) -> usize {
    let blocks = |pages: u32| -> usize {
        let runs = layout.ram.iter();
        runs.map(|&(first, count)| ((first.0 + count) / pages - first.0 / pages + 1) as usize).sum()
    };
    1 + BLOCKS.into_iter().map(blocks).sum::<usize>()
}

/// The tables as boot builds them, in large blocks, so that pages get entries of their own one by
/// one.
fn boot(layout: &Layout, checker: &BbmChecker) -> Stage2<BbmChecker> {
    let stage2 = Stage2::new(checker.clone(), checker.memory(), IPA_BITS, true);
    let Ok(mut stage2) = stage2 else { unreachable!("there is room for a root") };
    for &(first, pages) in &layout.ram {
        let [block, _] = BLOCKS.map(u64::from);
        let start = u64::from(first.0) / block * block;
        let end = u64::from(first.0 + pages).next_multiple_of(block);
        let mapped = stage2.map_ram(PhysRange { start: start << 12, end: end << 12 });
        mapped.unwrap_or_else(|error| unreachable!("blocks need no tables: {error:?}"));
    }
    checker.select_tables(stage2.root().table);
    stage2
}
