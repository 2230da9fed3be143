//! The CPUs: the stage 2 that runs at EL2, under a checker, and translations that stay until they
//! are flushed.

use crate::bbm_checker::BbmChecker;
use crate::machine::{Data, FaultInjection, Layout, SimulatedMachine};
use crate::memory::HostMemory;
use oche_el2::stage2::entry::Entry as Descriptor;
use oche_el2::stage2::hardware::Hardware as _;
use oche_el2::stage2::{Lookup, Stage2};
use oche_engine::host::{CpuAccess, OutOfTables, Stage2 as _};
use oche_types::addr::{Gfn, Hfn, PAGE_WORDS, SLOTS};
use oche_types::range::PhysRange;

use crate::random::Random;

/// What came of a CPU's access.
#[derive(Clone, Copy, Debug)]
pub enum CpuResult {
    /// The bytes that a load saw.
    Loaded(Data),
    /// A store went through.
    Stored,
    /// A store met a page that is only to be read: it traps.
    ReadOnly,
    /// An access met a page that nobody may reach: it traps.
    NoAccess,
    /// The page is broken: the CPU tries again until it is made.
    InMotion,
    /// There is no such page.
    NoMemory,
}

/// A place in host memory, if there is one, and how often it has been stored into.
pub type PageState = Option<(usize, u32)>;

/// Where a page's change stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Live,
    Broken,
    Flushed,
    /// Made, and not yet published.
    Made,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Hfn,
    is_prepared: bool,
    phase: Phase,
}

/// What a CPU has cached of a page.
#[derive(Clone, Copy, Debug)]
struct Translation {
    page: Gfn,
    at: Hfn,
    access: CpuAccess,
}

/// Stage 2 and every CPU's cached translations of it.
pub struct CpuTables {
    /// First page and number of pages of each run of guest RAM.
    ram: Vec<(Gfn, u32)>,
    /// Of each page of guest RAM, in the order of `ram`, in which the pages' homes lie in host
    /// memory too.
    entries: Vec<Entry>,
    /// Which guest page lies in each page of host memory, as far as CPUs know.
    owners: Vec<Option<Gfn>>,
    /// Of each CPU, by page.
    cached: Vec<Vec<Translation>>,
    moving: Vec<Gfn>,
    stage2: Stage2<BbmChecker>,
    checker: BbmChecker,
    /// What walks find where they may find more than one thing.
    walks: Random,
    /// The page that was made last: a CPU may fetch from it.
    made: Option<Gfn>,
}

impl CpuTables {
    /// What a walk of the tables finds now: with stores still on their way, the older entry as
    /// well.
    fn walk(&mut self, page: Gfn) -> Lookup {
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
    fn fetch(&mut self) {
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
            entries.push(Entry { at: page.home(), is_prepared: false, phase: Phase::Live });
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

    fn entry(&self, page: Gfn) -> Option<&Entry> {
        self.entries.get(self.place(page)?)
    }

    fn entry_mut(&mut self, page: Gfn) -> Option<&mut Entry> {
        let place = self.place(page)?;
        self.entries.get_mut(place)
    }

    /// Who watches what is done to the tables.
    pub fn checker(&self) -> &BbmChecker {
        &self.checker
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

impl<const C: bool> SimulatedMachine<C> {
    /// CPUs of the machine.
    pub fn cpu_count(&self) -> usize {
        self.cpus.cached.len()
    }

    /// Where a CPU that walks anew finds `page`; `None` where there is no RAM.
    pub fn location(&self, page: Gfn) -> Option<Hfn> {
        self.cpus.entry(page).map(|entry| entry.at)
    }

    /// The guest page that CPUs find at `at`.
    pub fn owner(&self, at: Hfn) -> Option<Gfn> {
        self.cpus.owners[self.memory.index(at)?]
    }

    /// The guest page whose home `at` is and that lies elsewhere now.
    pub fn deserted_by(&self, at: Hfn) -> Option<Gfn> {
        let page = Gfn(at.0);
        (self.memory.is_ram(at) && self.location(page) != Some(at)).then_some(page)
    }

    /// Where a CPU that walks anew finds `page`, and in which state.
    pub fn state(&self, page: Gfn) -> PageState {
        let index = self.location(page).and_then(|at| self.memory.index(at));
        index.map(|index| (index, self.memory.changes(index)))
    }

    /// The words of `page` as a CPU that walks anew sees them.
    pub fn view(&self, page: Gfn) -> Option<&[u64; PAGE_WORDS]> {
        Some(self.memory.page(self.memory.index(self.location(page)?)?))
    }

    /// A store by a CPU for which the engine opened the page, at `at`.
    pub fn opened_store(&mut self, at: Hfn, offset: usize, data: &Data) {
        if let Some(index) = self.memory.index(at) {
            self.memory.set_bytes(index, offset, data.bytes());
        }
    }

    /// A load by a CPU for which the engine opened the page, at `at`.
    pub fn opened_load(&mut self, at: Hfn, offset: usize, length: usize) -> CpuResult {
        let mut bytes = [0; 32];
        let bytes = &mut bytes[..length.min(32)];
        let Some(index) = self.memory.index(at) else { return CpuResult::NoMemory };
        self.memory.get_bytes(index, offset, bytes);
        CpuResult::Loaded(Data::new(bytes))
    }

    /// A load by `cpu`.
    pub fn cpu_load(&mut self, cpu: usize, page: Gfn, offset: usize, length: usize) -> CpuResult {
        let (at, _) = match self.cpu_translate(cpu, page) {
            Ok(found) => found,
            Err(result) => return result,
        };
        let mut bytes = [0; 32];
        let bytes = &mut bytes[..length.min(32)];
        let Some(index) = self.memory.index(at) else { return CpuResult::NoMemory };
        self.memory.get_bytes(index, offset, bytes);
        CpuResult::Loaded(Data::new(bytes))
    }

    /// A store by `cpu`.
    pub fn cpu_store(&mut self, cpu: usize, page: Gfn, offset: usize, data: &Data) -> CpuResult {
        let (at, access) = match self.cpu_translate(cpu, page) {
            Ok(found) => found,
            Err(result) => return result,
        };
        if access == CpuAccess::ReadOnly {
            return CpuResult::ReadOnly;
        }
        let Some(index) = self.memory.index(at) else { return CpuResult::NoMemory };
        self.memory.set_bytes(index, offset, data.bytes());
        CpuResult::Stored
    }

    fn cpu_translate(&mut self, cpu: usize, page: Gfn) -> Result<(Hfn, CpuAccess), CpuResult> {
        evict(&mut self.cpus.cached[cpu], &mut self.random);
        let place = self.cpus.cached[cpu].binary_search_by_key(&page, |cached| cached.page);
        if let Ok(place) = place {
            let Translation { at, access, .. } = self.cpus.cached[cpu][place];
            return Ok((at, access));
        }
        let Some(&entry) = self.cpus.entry(page) else { return Err(CpuResult::NoMemory) };
        if matches!(entry.phase, Phase::Made) {
            return Err(CpuResult::InMotion);
        }
        let (at, access) = match self.cpus.walk(page) {
            Lookup::Unmapped => return Err(CpuResult::NoMemory),
            Lookup::InMotion => return Err(CpuResult::InMotion),
            Lookup::Mapped { access: CpuAccess::None, .. } => return Err(CpuResult::NoAccess),
            Lookup::Mapped { at, access, .. } => (at, access),
        };
        if self.random.chance(7, 8)
            && let Err(place) = place
        {
            self.cpus.cached[cpu].insert(place, Translation { page, at, access });
        }
        Ok((at, access))
    }

    pub(crate) fn is_prepared(&self, page: Gfn) -> bool {
        self.cpus.entry(page).is_some_and(|entry| entry.is_prepared)
    }

    pub(crate) fn stage2_prepare(&mut self, page: Gfn) -> Result<(), OutOfTables> {
        match self.cpus.entry_mut(page) {
            Some(entry) => entry.is_prepared = true,
            None => self.violate(format!("prepare of {page:?}, which is no guest RAM")),
        }
        let prepared = self.cpus.stage2.prepare(page);
        self.forget();
        prepared
    }

    /// Drops from every TLB what the last invalidations were about.
    fn forget(&mut self) {
        let forgotten = self.cpus.checker.take_forgotten();
        if self.injects(FaultInjection::SkipCpuFlush) {
            return;
        }
        for (first, pages) in forgotten {
            let pages = Gfn(first as u32)..Gfn((first + pages) as u32);
            for cached in &mut self.cpus.cached {
                cached.retain(|translation| !pages.contains(&translation.page));
            }
        }
    }

    pub(crate) fn stage2_break(&mut self, page: Gfn) {
        match self.cpus.entry_mut(page) {
            Some(entry) if entry.is_prepared && entry.phase == Phase::Live => {
                entry.phase = Phase::Broken;
                self.cpus.moving.push(page);
                self.cpus.stage2.break_page(page);
            }
            found => {
                let text = format!("break of {page:?}, which is {found:?}");
                self.violate(text);
            }
        }
    }

    pub(crate) fn stage2_flush(&mut self) {
        for index in 0..self.cpus.moving.len() {
            let page = self.cpus.moving[index];
            if let Some(entry) = self.cpus.entry_mut(page)
                && entry.phase == Phase::Broken
            {
                entry.phase = Phase::Flushed;
            }
        }
        if !self.injects(FaultInjection::CopyBeforeBreak) {
            self.cpus.stage2.flush_broken();
        }
        self.forget();
    }

    pub(crate) fn stage2_make(&mut self, page: Gfn, at: Hfn, access: CpuAccess) {
        let Some(&entry) = self.cpus.entry(page) else {
            return self.violate(format!("make of {page:?}, which is no guest RAM"));
        };
        if entry.phase != Phase::Flushed {
            return self.violate(format!(
                "make of {page:?}, which is {:?}, not broken and flushed",
                entry.phase
            ));
        }
        let Some(index) = self.memory.index(at) else {
            return self.violate(format!("make of {page:?} at {at:?}, where there is no memory"));
        };
        if self.memory.is_ram(at) && at != page.home() {
            return self.violate(format!("make of {page:?} at {at:?}, the home of another page"));
        }
        if let Some(owner) = self.cpus.owners[index].filter(|owner| *owner != page)
            && self
                .cpus
                .entry(owner)
                .is_some_and(|other| other.at == at && other.phase != Phase::Flushed)
        {
            return self.violate(format!("make of {page:?} at {at:?}, where {owner:?} lies"));
        }
        if let Some(old) = self.memory.index(entry.at)
            && self.cpus.owners[old] == Some(page)
        {
            self.cpus.owners[old] = None;
        }
        self.cpus.owners[index] = Some(page);
        if let Some(made) = self.cpus.entry_mut(page) {
            *made = Entry { at, phase: Phase::Made, ..entry };
        }
        if self.injects(FaultInjection::CopyBeforeBreak) {
            self.cpus.stage2.flush_broken();
            self.forget();
        }
        self.cpus.stage2.make_page(page, at, access);
        self.cpus.made = Some(page);
    }

    pub(crate) fn stage2_publish(&mut self) {
        if !self.injects(FaultInjection::SkipPublish) {
            self.cpus.stage2.publish();
        }
        let moving = std::mem::take(&mut self.cpus.moving);
        for page in moving {
            let Some(entry) = self.cpus.entry_mut(page) else { continue };
            if entry.phase != Phase::Made {
                self.cpus.moving.push(page);
                continue;
            }
            entry.phase = Phase::Live;
            let at = entry.at;
            if self.options.poisons_homes
                && at != page.home()
                && let Some(home) = self.memory.index(page.home())
            {
                self.memory.fill(home, POISON);
            }
        }
    }

    /// To be called when the engine has returned: nothing may be left half changed.
    pub fn check_settled(&mut self) {
        self.cpus.fetch();
        self.cpus.checker.check_settled();
        if let Err(text) = self.frames.check_settled(self.cpus.checker.barriers_for_all()) {
            self.violate(text);
        }
        if let Some(page) = self.cpus.moving.first() {
            let phase = self.cpus.entry(*page).map(|entry| entry.phase);
            self.violate(format!("the engine returned and left {page:?} {phase:?}"));
        }
    }
}

/// What stands in a home that its page has left.
const POISON: u64 = 0x6465_7472_6573_6564;

fn evict(cached: &mut Vec<Translation>, random: &mut Random) {
    if cached.len() > 24 || (!cached.is_empty() && random.chance(1, 16)) {
        cached.remove(random.index(cached.len()));
    }
}
