//! The CPUs: accesses through stage 2, and the engine's changes of stage 2.

use super::SimulatedMachine;
use crate::access::{CpuResult, Data};
use crate::cpu_tables::{Entry, PageState, Phase, Translation};
use crate::random::Random;
use crate::setup::FaultInjection;
use oche_el2::stage2::Lookup;
use oche_engine::host::{CpuAccess, OutOfTables, Stage2 as _};
use oche_types::addr::{Gfn, Hfn, PAGE_WORDS};

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
            return Err(CpuResult::Broken);
        }
        let (at, access) = match self.cpus.walk(page) {
            Lookup::Unmapped => return Err(CpuResult::NoMemory),
            Lookup::Broken => return Err(CpuResult::Broken),
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
        let forgotten = self.cpus.checker().take_forgotten();
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
            self.cpus.stage2.flush_tlb();
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
            *made = Entry { at, phase: Phase::Made, waited_for_drain: false, ..entry };
        }
        if entry.waited_for_drain && !self.cpus.has_live_move {
            self.violate(format!(
                "{page:?} is broken while the hardware drains, and no live move needs it"
            ));
        }
        if self.injects(FaultInjection::CopyBeforeBreak) {
            self.cpus.stage2.flush_tlb();
            self.forget();
        }
        self.cpus.stage2.remap_page(page, at, access);
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
        self.cpus.has_live_move &= !self.cpus.moving.is_empty();
    }

    /// Call it when the engine has returned: no change may be incomplete.
    pub fn check_settled(&mut self) {
        self.cpus.fetch();
        self.cpus.checker().check_settled();
        if let Err(text) = self.frames.check_settled(self.cpus.checker().barriers_for_all()) {
            self.violate(text);
        }
        if let Some(page) = self.cpus.moving.first() {
            let phase = self.cpus.entry(*page).map(|entry| entry.phase);
            self.violate(format!("the engine returned and left {page:?} {phase:?}"));
        }
    }
}

/// The contents of the home of a page that is away.
const POISON: u64 = 0x6465_7472_6573_6564;

fn evict(cached: &mut Vec<Translation>, random: &mut Random) {
    if cached.len() > 24 || (!cached.is_empty() && random.chance(1, 16)) {
        cached.remove(random.index(cached.len()));
    }
}
