//! The CPUs: a stage 2 with break-before-make, and translations that stay until they are flushed.

use super::{Data, Layout, Sabotage, StrictWorld};
use crate::random::Random;
use oche_hyp::addr::{Gfn, Hfn, PAGE_WORDS};
use oche_hyp::world::CpuAccess;
use std::collections::BTreeMap;

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
    access: CpuAccess,
    is_prepared: bool,
    phase: Phase,
}

/// Stage 2 and every CPU's cached translations of it.
pub struct CpuTables {
    entries: BTreeMap<Gfn, Entry>,
    /// Which guest page lies in each page of host memory, as far as CPUs know.
    owners: Vec<Option<Gfn>>,
    cached: Vec<BTreeMap<Gfn, (Hfn, CpuAccess)>>,
    moving: Vec<Gfn>,
}

impl CpuTables {
    /// Everything at home, for `cpus` CPUs.
    pub fn new(layout: &Layout, host_pages: usize, cpus: usize) -> Self {
        let mut entries = BTreeMap::new();
        let mut owners = vec![None; host_pages];
        let ram = layout.ram.iter().flat_map(|&(first, pages)| (first.0..first.0 + pages).map(Gfn));
        for (index, page) in ram.enumerate() {
            let access = CpuAccess::ReadWrite;
            entries.insert(page, Entry { at: page.home(), access, is_prepared: false, phase: Phase::Live });
            owners[index] = Some(page);
        }
        Self { entries, owners, cached: vec![BTreeMap::new(); cpus], moving: Vec::new() }
    }
}

impl<const C: bool> StrictWorld<C> {
    /// CPUs of the machine.
    pub fn cpu_count(&self) -> usize {
        self.cpus.cached.len()
    }

    /// Where a CPU that walks anew finds `page`; `None` where there is no RAM.
    pub fn location(&self, page: Gfn) -> Option<Hfn> {
        self.cpus.entries.get(&page).map(|entry| entry.at)
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

    /// The words of `page` as a CPU that walks anew sees them.
    pub fn view(&self, page: Gfn) -> Option<&[u64]> {
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
        if let Some(&found) = self.cpus.cached[cpu].get(&page) {
            return Ok(found);
        }
        let Some(&entry) = self.cpus.entries.get(&page) else { return Err(CpuResult::NoMemory) };
        if entry.phase != Phase::Live {
            return Err(CpuResult::InMotion);
        }
        if entry.access == CpuAccess::None {
            return Err(CpuResult::NoAccess);
        }
        let found = (entry.at, entry.access);
        if self.random.chance(7, 8) {
            self.cpus.cached[cpu].insert(page, found);
        }
        Ok(found)
    }

    pub(super) fn is_prepared(&self, page: Gfn) -> bool {
        self.cpus.entries.get(&page).is_some_and(|entry| entry.is_prepared)
    }

    pub(super) fn stage2_prepare(&mut self, page: Gfn) {
        match self.cpus.entries.get_mut(&page) {
            Some(entry) => entry.is_prepared = true,
            None => self.violate(format!("prepare of {page:?}, which is no guest RAM")),
        }
    }

    pub(super) fn stage2_break(&mut self, page: Gfn) {
        match self.cpus.entries.get_mut(&page) {
            Some(entry) if entry.is_prepared && entry.phase == Phase::Live => {
                entry.phase = Phase::Broken;
                self.cpus.moving.push(page);
            }
            found => {
                let text = format!("break of {page:?}, which is {found:?}");
                self.violate(text);
            }
        }
    }

    pub(super) fn stage2_flush(&mut self) {
        for index in 0..self.cpus.moving.len() {
            let page = self.cpus.moving[index];
            if let Some(entry) = self.cpus.entries.get_mut(&page)
                && entry.phase == Phase::Broken
            {
                entry.phase = Phase::Flushed;
                if !self.is_sabotaged(Sabotage::SkipCpuFlush) {
                    for cached in &mut self.cpus.cached {
                        cached.remove(&page);
                    }
                }
            }
        }
    }

    pub(super) fn stage2_make(&mut self, page: Gfn, at: Hfn, access: CpuAccess) {
        let Some(&entry) = self.cpus.entries.get(&page) else {
            return self.violate(format!("make of {page:?}, which is no guest RAM"));
        };
        if entry.phase != Phase::Flushed {
            return self
                .violate(format!("make of {page:?}, which is {:?}, not broken and flushed", entry.phase));
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
                .entries
                .get(&owner)
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
        self.cpus.entries.insert(page, Entry { at, access, phase: Phase::Made, ..entry });
    }

    pub(super) fn stage2_publish(&mut self) {
        let moving = std::mem::take(&mut self.cpus.moving);
        for page in moving {
            let Some(entry) = self.cpus.entries.get_mut(&page) else { continue };
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
                (0..PAGE_WORDS).for_each(|word| self.memory.set_word(home, word, POISON));
            }
        }
    }

    /// To be called when the engine has returned: nothing may be left half changed.
    pub fn check_settled(&self) {
        if let Some(page) = self.cpus.moving.first() {
            let phase = self.cpus.entries.get(page).map(|entry| entry.phase);
            self.violate(format!("the engine returned and left {page:?} {phase:?}"));
        }
    }
}

/// What stands in a home that its page has left.
const POISON: u64 = 0x6465_7472_6573_6564;

fn evict(cached: &mut BTreeMap<Gfn, (Hfn, CpuAccess)>, random: &mut Random) {
    if cached.len() > 24 || (!cached.is_empty() && random.chance(1, 16)) {
        let index = random.index(cached.len());
        if let Some(&page) = cached.keys().nth(index) {
            cached.remove(&page);
        }
    }
}
