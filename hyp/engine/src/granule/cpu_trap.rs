//! CPU traps: CPUs' accesses to a page with copies are trapped, so that the copies behave as one
//! memory.
//!
//! A page whose bounce pages devices only read is read-only for CPUs. A page with a bounce page
//! that a device may write is not accessible to CPUs at all. An access that traps is carried out
//! here, under the engine's lock, on all copies, before the CPU continues.
//!
//! This is exact for accesses of CPUs and of one device at a time to each byte:
//! - *A CPU's load sees every earlier write of a device.* In the words of the load, what differs
//!   from the twin in any copy that a device may write is merged first ([`propagate`]). If there is
//!   no such bounce page, devices write only the copy that CPUs read, and loads need no trap.
//! - *Every device that reads after a CPU's store sees it.* The store goes into all copies and into
//!   the twin before the trap returns, and changes no other byte. A later write of a device differs
//!   from the twin: [`CopySet::store_parts`] has the argument.
//! - *A device's write is never mistaken for an old value.* The twin holds what all copies agreed
//!   on after the last merge or trapped store. A device that writes back a value that a CPU has
//!   overwritten therefore differs from the twin.
//! - *No CPU stores between the fill of a bounce page and its trap:* the page is broken in stage 2
//!   meanwhile.
//!
//! No trap sees a device's write. If another device reads the page, or the same device reads it
//! through another IOVA, with no CPU access and no invalidation in between, it may read the old
//! value.
//!
//! [`propagate`]: GranuleMapper::propagate

use oche_types::addr::{Gfn, Hfn, PAGE_BYTES};
use oche_types::dart::entry::Permission;
use oche_types::event::Refusal;
use oche_types::{Invariant, invariant};

use crate::granule::copies::store_bytes;
use crate::granule::copy_set::{CopySet, Parts};
use crate::granule::state::Slot;
use crate::granule::{BATCH, Change, GranuleMapper, Requester};
use crate::host::{DomainId, Host, Memory};
use crate::mover::CpuTrap;

impl GranuleMapper {
    /// The trap that a page with a bounce page of `permission` needs.
    pub(super) const fn trap_for(permission: Permission) -> CpuTrap {
        if permission.write { CpuTrap::All } else { CpuTrap::Writes }
    }

    /// The trap that `page` needs now.
    pub(crate) fn needed_trap(&self, page: Gfn) -> CpuTrap {
        let trap = |(_, write)| Self::trap_for(Permission { read: true, write });
        let trap = self.bounce_pages(page).map(trap).max().unwrap_or(CpuTrap::None);
        if trap != CpuTrap::All && self.is_watched(page) {
            return CpuTrap::All;
        }
        if trap == CpuTrap::Writes && self.mover.has_exclusives(page) { CpuTrap::All } else { trap }
    }

    /// Remaps every broken page with the trap that it needs now. The trap of any other page may be
    /// stricter than needed, but never weaker: [`Self::break_too_strict`] has it corrected in a
    /// batch, and [`Self::relax_trap`] when a CPU accesses the page.
    pub(super) fn remap_pages(&mut self, host: &mut impl Host) {
        let mut index = 0;
        while let Some(page) = self.mover.broken(index) {
            let trap = self.needed_trap(page);
            self.mover.set_trap(page, trap);
            index += 1;
        }
        self.mover.remap(host);
    }

    fn is_trap_too_strict(&self, page: Gfn) -> bool {
        let trap = self.mover.trap(page);
        trap != CpuTrap::None && self.needed_trap(page) < trap
    }

    /// Breaks each listed page whose trap is stricter than needed, so that [`Self::remap_pages`]
    /// relaxes it, if the TLBs have to be flushed anyway. Otherwise the page keeps its trap until a
    /// CPU accesses it, which may never happen.
    pub(super) fn break_too_strict(&mut self, host: &mut impl Host) {
        if !self.mover.has_to_flush() {
            return;
        }
        for index in 0..self.listed.len() {
            let page = *self.listed.get(index).must("no page leaves the list meanwhile");
            if self.is_trap_too_strict(page) {
                self.mover.break_page(host, page);
            }
        }
    }

    /// Removes or weakens the trap of `page` if it is stricter than needed. Returns whether it was.
    pub(crate) fn relax_trap(&mut self, host: &mut impl Host, page: Gfn) -> bool {
        if !self.is_trap_too_strict(page) {
            return false;
        }
        self.mover.break_page(host, page);
        self.remap_pages(host);
        true
    }

    /// Traps loads of `page`, whose stores are trapped, too.
    pub(crate) fn trap_loads(&mut self, host: &mut impl Host, page: Gfn) {
        self.mover.set_exclusives(page, true);
        if self.needed_trap(page) > self.mover.trap(page) {
            self.mover.break_page(host, page);
            self.remap_pages(host);
        }
    }

    fn version(&self) -> u64 {
        self.mover.version().wrapping_add(self.granule_map.version())
    }

    /// The copies of `page`, if it is trapped as it must be, so that a load or store of a CPU is
    /// carried out on all copies. Such a page holds no tracked table.
    #[inline]
    pub(crate) fn trapped_copies(&mut self, page: Gfn, is_write: bool) -> Option<&CopySet> {
        let covering = if is_write { CpuTrap::Writes } else { CpuTrap::All };
        let version = self.version();
        if self.copy_sets.get(page, version).is_none() {
            self.find_mapped_copies(page, version);
        }
        self.copy_sets.get(page, version).filter(|set| set.trap >= covering)
    }

    /// Finds the copies of `page`, unless it has none: then its trap is not for them.
    #[cold]
    #[inline(never)]
    fn find_mapped_copies(&mut self, page: Gfn, version: u64) {
        if self.mappings(page).next().is_some()
            && let Some(found) = self.find_copies(page, version)
        {
            self.copy_sets.keep(found);
        }
    }

    /// Loads `parts` at `offset` of a trapped `page` for a CPU, after a merge of their words.
    #[cold]
    #[inline(never)]
    pub(crate) fn merge_and_load(
        &mut self,
        host: &mut impl Host,
        page: Gfn,
        offset: usize,
        parts: Parts,
    ) -> [u64; 2] {
        let first = self.load(host, page, offset, parts.bytes);
        let has_second = parts.count == 2;
        let offset = offset + parts.bytes;
        [first, if has_second { self.load(host, page, offset, parts.bytes) } else { 0 }]
    }

    /// Stores `parts` with `values` at `offset` of a trapped `page` for a CPU, aligned or not.
    #[cold]
    #[inline(never)]
    pub(crate) fn store_unaligned(
        &mut self,
        host: &mut impl Host,
        page: Gfn,
        offset: usize,
        parts: Parts,
        values: [u64; 2],
    ) {
        self.store(host, page, offset, parts.bytes, values[0]);
        if parts.count == 2 {
            self.store(host, page, offset + parts.bytes, parts.bytes, values[1]);
        }
    }

    /// The copies of `page`, or `None` if there are too many for a set.
    #[inline]
    fn copy_set(&mut self, page: Gfn) -> Option<&CopySet> {
        let version = self.version();
        if self.copy_sets.get(page, version).is_none() {
            let found = self.find_copies(page, version)?;
            self.copy_sets.keep(found);
        }
        self.copy_sets.get(page, version)
    }

    #[cold]
    #[inline(never)]
    fn find_copies(&self, page: Gfn, version: u64) -> Option<CopySet> {
        let mut set = CopySet::new(page, version, self.mover.locate(page));
        set.twin = self.twin(page);
        for is_written in [true, false] {
            for (bounce, _) in self.bounce_pages(page).filter(|(_, written)| *written == is_written)
            {
                if !set.add(bounce, is_written) {
                    return None;
                }
            }
        }
        let trap = self.mover.trap(page);
        // A watch ends without a change of the page's state.
        let is_as_needed = !self.watches.are_set() && trap == self.needed_trap(page);
        if is_as_needed && !self.mover.holds_table(page) {
            set.trap = trap;
        }
        Some(set)
    }

    /// Word `word` of `page` as a CPU loads it: merges what devices wrote there first.
    #[inline]
    fn merged_word(&mut self, host: &mut impl Host, page: Gfn, word: usize) -> u64 {
        match self.copy_set(page).and_then(|set| set.load(host, word)) {
            Some(value) => value,
            None => self.merge_word(host, page, word),
        }
    }

    #[inline(never)]
    fn merge_word(&mut self, host: &mut impl Host, page: Gfn, word: usize) -> u64 {
        self.propagate(host, page, word..word + 1);
        host.load(self.mover.locate(page), word)
    }

    /// Loads `bytes` bytes (1 to 8, inside the page) at `offset` of a trapped `page` for a CPU, and
    /// zero-extends them. Returns 0 if the range is invalid.
    #[inline]
    pub(crate) fn load(
        &mut self,
        host: &mut impl Host,
        page: Gfn,
        offset: usize,
        bytes: usize,
    ) -> u64 {
        check_inside(offset, bytes);
        let (first, last) = (offset / 8, (offset + bytes - 1) / 8);
        let shift = 8 * (offset % 8) as u32;
        let mut value = self.merged_word(host, page, first) >> shift;
        if last != first {
            value |= self.merged_word(host, page, last) << (64 - shift);
        }
        let unused = 64 - 8 * bytes as u32;
        value << unused >> unused
    }

    /// Stores the low `bytes` bytes (1 to 8, inside the page) of `value` at `offset` of a trapped
    /// `page` for a CPU. Does nothing if the range is invalid. An aligned power of two of bytes is
    /// one store in each copy.
    pub(crate) fn store(
        &mut self,
        host: &mut impl Host,
        page: Gfn,
        offset: usize,
        bytes: usize,
        value: u64,
    ) {
        check_inside(offset, bytes);
        if let Some(set) = self.copy_set(page) {
            if bytes.is_power_of_two() && offset.is_multiple_of(bytes) {
                let width_log2 = bytes.trailing_zeros() as u8;
                set.all().for_each(|to| host.store_aligned(to, offset, width_log2, value));
            } else {
                set.all().for_each(|to| store_part(host, to, offset, bytes, value));
            }
            return;
        }
        let bounce_pages = self.bounce_pages(page).map(|(bounce, _)| bounce);
        for to in bounce_pages.chain([self.mover.locate(page)]).chain(self.twin(page)) {
            store_part(host, to, offset, bytes, value);
        }
    }

    /// Opens `page` for direct accesses of one CPU: makes all copies equal and returns the host
    /// page to access. [`Self::close`] must follow before any other call of the engine.
    pub(crate) fn open(&mut self, host: &mut impl Host, page: Gfn) -> Hfn {
        self.merge_copies(host, page);
        self.mover.locate(page)
    }

    /// Closes `page`: copies what the CPU stored there to all copies.
    pub(crate) fn close(&mut self, host: &mut impl Host, page: Gfn) {
        if self.twin(page).is_some() {
            self.merge_copies(host, page);
            return;
        }
        // No device writes a bounce page, so any difference is the CPU's store to the page.
        self.refresh_bounce_pages(host, page);
    }

    /// Drops bounce pages of `page`: their mappings are refused, so devices fault there. Once none
    /// is left, the page is not trapped. This is for accesses that cannot be carried out on several
    /// copies: instruction fetches and table walks. A call drops a batch in one domain; the access
    /// traps again until none is left.
    pub(crate) fn drop_bounce_pages(&mut self, host: &mut impl Host, page: Gfn) {
        self.drop_some_bounce_pages(host, page);
        self.relax_trap(host, page);
    }

    /// Drops all bounce pages of `page`.
    pub(super) fn drop_all_bounce_pages(&mut self, host: &mut impl Host, page: Gfn) {
        while self.drop_some_bounce_pages(host, page) {}
        self.relax_trap(host, page);
    }

    /// Drops some bounce pages of `page`, at most a batch in one domain. Returns false if there is
    /// none.
    fn drop_some_bounce_pages(&mut self, host: &mut impl Host, page: Gfn) -> bool {
        let mut changes = core::mem::take(&mut self.dropped);
        let mut domain = None;
        for mapping in self.mappings(page) {
            let (slot, ..) = self.slot_of(mapping);
            if !slot.is_bounce || *domain.get_or_insert(mapping.domain) != mapping.domain {
                continue;
            }
            let granule = mapping.iova.granule();
            let known = changes.iter().position(|change: &Change| change.granule == granule);
            let index = known.unwrap_or(changes.len());
            if index == BATCH {
                continue;
            }
            if known.is_none() {
                let wanted =
                    self.state(mapping.domain, granule).slots.map(|slot| slot.map(Slot::leaf));
                changes.push(Change { granule, wanted });
            }
            let change = changes.get_mut(index).must("the granule's change was listed");
            *change.wanted.get_mut(mapping.iova.slot()).must("a granule has four slots") = None;
        }
        if let Some(domain) = domain {
            self.unmap_bounce_pages(host, domain, &changes);
        }
        changes.clear();
        self.dropped = changes;
        domain.is_some()
    }

    /// Unmaps the bounce pages that `changes` of `domain` no longer contain, and reports them as
    /// refused.
    fn unmap_bounce_pages(&mut self, host: &mut impl Host, domain: DomainId, changes: &[Change]) {
        let requester = Requester::of(&self.placed(domain).members);
        self.remove(host, requester, domain, changes);
        self.refuse_unmapped(host, requester, Refusal::NotTrappable);
    }
}

/// Stores the low `bytes` bytes of `value` at `offset` of `to`. An aligned power of two of bytes is
/// one store.
fn store_part(memory: &mut impl Memory, to: Hfn, offset: usize, bytes: usize, value: u64) {
    let (word, shift) = (offset / 8, 8 * (offset % 8) as u32);
    let mask = u64::MAX >> (64 - 8 * bytes);
    store_bytes(memory, to, word, mask << shift, value << shift);
    if offset % 8 + bytes > 8 {
        store_bytes(memory, to, word + 1, mask >> (64 - shift), value >> (64 - shift));
    }
}

/// Checks that an access has 1 to 8 bytes and lies inside a page. Callers divide longer ones.
fn check_inside(offset: usize, bytes: usize) {
    let is_inside = matches!(bytes, 1..=8) && offset <= PAGE_BYTES - bytes;
    invariant!(is_inside, "an access of 1 to 8 bytes lies inside a page: {bytes} at {offset:#x}");
}
