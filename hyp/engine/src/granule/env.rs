//! What a plan depends on besides the granule and what is wanted there: the pages, the hardware,
//! and the memory that is left.

use oche_types::Invariant;
use oche_types::addr::{Gfn, Granule, HostGranule, SLOTS};
use oche_types::dart::entry::Leaf;
use oche_types::event::Refusal;

use crate::granule::state::{Form, GranuleState};
use crate::granule::work::{CopyKind, PageCopy};
use crate::granule::{GranuleMapper, Isolation};
use crate::host::{DomainId, Host, Iommu};

/// What [`plan`](crate::granule::plan::plan) has to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Env {
    pub(super) isolation: Isolation,
    /// [`Iommu::has_windows`].
    pub(super) has_windows: bool,
    /// [`Iommu::CAN_FORBID_READS`].
    pub(super) can_forbid_reads: bool,
    /// The frame that the granule before is mapped to directly up to its last slot, if it is.
    pub(super) direct_before: Option<HostGranule>,
    /// The page that is wanted in each slot.
    pub(super) pages: [PageFacts; SLOTS],
    /// Whether the granule has a place in the granule map and in a shadow table.
    pub(super) tables: Result<(), Refusal>,
    /// Whether the pool has a frame.
    pub(super) has_frame: bool,
    /// How many single pages the pool has, counted to four at most. If the granule needs a frame,
    /// those that are left beside it.
    pub(super) single_pages: usize,
    /// How many nodes there are for lists of mappings.
    pub(super) nodes: usize,
}

/// What is known of a page that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageFacts {
    pub(super) is_ram: bool,
    /// Whether it is at home and no earlier plan of the batch moves it.
    pub(super) stays_home: bool,
    pub(super) is_pinned: bool,
    /// Whether it has a twin, or gets one in this batch.
    pub(super) has_twin: bool,
    /// Number of its mappings.
    pub(super) mappings: usize,
    pub(super) entry: Stage2Entry,
}

/// Where stage 2 maps a page for CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage2Entry {
    /// In an entry of its own: the page can be broken.
    Own,
    /// Perhaps in a block, which has to be split first.
    Shared,
    /// In a block, and there is no memory to split it.
    Unsplittable,
}

impl PageFacts {
    /// A page that is no guest RAM.
    pub(super) const NO_RAM: Self = Self {
        is_ram: false,
        stays_home: false,
        is_pinned: false,
        has_twin: false,
        mappings: 0,
        entry: Stage2Entry::Unsplittable,
    };
}

impl GranuleMapper {
    /// What holds for every granule. The rest is not known yet: see [`Self::complete_env`].
    #[inline]
    pub(super) fn env(&self, host: &impl Host) -> Env {
        Env {
            isolation: self.isolation,
            has_windows: host.has_windows(),
            can_forbid_reads: can_forbid_reads(host),
            direct_before: None,
            pages: [PageFacts::NO_RAM; SLOTS],
            tables: Ok(()),
            has_frame: false,
            single_pages: 0,
            nodes: self.aliases.free_nodes(),
        }
    }

    /// Completes `env` for the plan of `granule`, which has `state`. `copies` are those that the
    /// batch has planned so far.
    pub(super) fn complete_env<H: Host>(
        &mut self,
        host: &mut H,
        domain: DomainId,
        (granule, state): (Granule, &GranuleState),
        wanted: &[Option<Leaf>; SLOTS],
        copies: &[PageCopy],
        env: &mut Env,
    ) {
        let mut has_new = false;
        // Nothing has to be known of a page that stays in a relocated granule.
        let stays_relocated = matches!(state.form, Form::Relocated(_));
        for (index, facts) in env.pages.iter_mut().enumerate() {
            let Some(Some(leaf)) = wanted.get(index) else { continue };
            let is_mapped = state.slots.get(index).is_some_and(Option::is_some);
            has_new |= !is_mapped;
            if !(is_mapped && stays_relocated) {
                self.find_facts(leaf.page, copies, facts);
            }
        }
        if has_new {
            // Before the rest of the pool is counted: a table takes a frame.
            env.tables = self.prepare_tables(host, domain, granule);
            if state.form == Form::Empty && env.has_windows {
                env.direct_before = self.direct_before(domain, granule);
            }
        }
        let room = self.pool.room(!stays_relocated);
        (env.has_frame, env.single_pages) = (room.is_some(), room.unwrap_or(0));
    }

    /// Finds out what `facts` says of `page`, which may be no guest RAM.
    #[inline]
    fn find_facts(&self, page: Gfn, copies: &[PageCopy], facts: &mut PageFacts) {
        let Some(state) = self.mover.get(page) else { return };
        let mappings = self.aliases.count(state.mappings);
        let gets_twin =
            |copy: &PageCopy| copy.page == page && matches!(copy.kind, CopyKind::WithTwin(_));
        facts.is_ram = true;
        facts.stays_home = state.stays_home();
        facts.is_pinned = state.is_pinned();
        facts.has_twin = state.twin != 0 || (mappings != 0 && copies.iter().any(gets_twin));
        facts.mappings = mappings;
        facts.entry = if state.has_own_entry() { Stage2Entry::Own } else { Stage2Entry::Shared };
    }

    /// The frame that the granule before `granule` is mapped to directly, if its last slot is
    /// mapped.
    fn direct_before(&self, domain: DomainId, granule: Granule) -> Option<HostGranule> {
        let before = self.state(domain, Granule(granule.0.checked_sub(1)?));
        match before.form {
            Form::Direct(frame) if before.slots.last().is_some_and(Option::is_some) => Some(frame),
            _ => None,
        }
    }

    /// Gives each page of `wanted` whose slot is marked in `split` an entry of its own in stage 2,
    /// and notes in `env` which have one.
    pub(super) fn prepare_entries(
        &mut self,
        host: &mut impl Host,
        wanted: &[Option<Leaf>; SLOTS],
        split: [bool; SLOTS],
        env: &mut Env,
    ) {
        for ((facts, leaf), _) in
            env.pages.iter_mut().zip(wanted).zip(split).filter(|(_, is_marked)| *is_marked)
        {
            let page = leaf.must("a plan names pages that are wanted").page;
            facts.entry = match self.mover.prepare(host, page) {
                Ok(()) => Stage2Entry::Own,
                Err(_) => Stage2Entry::Unsplittable,
            };
        }
    }

    /// Makes sure that `granule` has a place in the granule map and in a shadow table.
    pub(super) fn prepare_tables(
        &mut self,
        host: &mut impl Host,
        domain: DomainId,
        granule: Granule,
    ) -> Result<(), Refusal> {
        let placed = self.domains.get_mut(usize::from(domain.0)).and_then(Option::as_mut);
        let placed = placed.must("the domain exists");
        if !self.granule_map.prepare(&mut placed.directory, granule) {
            return Err(Refusal::TooManyTables);
        }
        if !placed.shadow.prepare(host, &mut self.pool, granule) {
            return Err(Refusal::PoolExhausted);
        }
        Ok(())
    }

    /// Frees the memory of [`Self::prepare_tables`] if nothing is mapped there after all.
    pub(super) fn release_unused(&mut self, domain: DomainId, granule: Granule) {
        let placed = self.domains.get_mut(usize::from(domain.0)).and_then(Option::as_mut);
        self.granule_map.release_unused(&mut placed.must("the domain exists").directory, granule);
    }
}

fn can_forbid_reads<I: Iommu>(_: &I) -> bool {
    I::CAN_FORBID_READS
}
