//! Traps: CPUs' accesses to a page with copies, so that all copies are one memory at every moment.
//!
//! A page with bounce pages that devices only read is read-only for CPUs; one with a bounce page
//! that a device may write is out of their reach. The access that traps comes here, under the
//! engine's lock, and is carried out on all copies before the CPU goes on.
//!
//! Why this is exact, for CPUs and one device at a time on each byte:
//! - *A CPU's load sees every write of a device that was in memory before.* It first brings what
//!   differs from the twin, in the words that it covers, from every copy that a device may write
//!   ([`propagate`]). While there is no such bounce page, devices write only the copy that CPUs
//!   read, and loads need no trap.
//! - *A CPU's store is seen by every device that reads after it.* It is stored into all copies and
//!   into the twin before the trap returns. The words under it were merged first, so a device's
//!   earlier write in the same word is not lost, and one that comes later differs from the twin.
//! - *A device's write is never taken for an old value.* The twin holds what all copies agreed on
//!   after the last store by anybody that was noticed, so a device that writes what a CPU has
//!   overwritten differs.
//! - *Nothing is stored between the fill of a bounce page and its trap:* the page is broken in
//!   stage 2 for that.
//!
//! What no trap can see is one device's write that another device reads, or the same through
//! another IOVA, with no access by a CPU and no invalidation between: the second may read what was
//! there before.
//!
//! [`propagate`]: GranuleMapper::propagate

use oche_types::Invariant;
use oche_types::addr::{Gfn, Hfn, PAGE_BYTES};
use oche_types::dart::entry::Permission;
use oche_types::event::Refusal;

use crate::granule::copies::store_bytes;
use crate::granule::state::Slot;
use crate::granule::{BATCH, Change, GranuleMapper, Requester};
use crate::host::{DomainId, Host};
use crate::mover::CpuTrap;

impl GranuleMapper {
    /// The trap that a page needs because of a bounce page with `permission`.
    pub(super) const fn trap_for(permission: Permission) -> CpuTrap {
        if permission.write { CpuTrap::All } else { CpuTrap::Writes }
    }

    /// The trap that `page` needs.
    pub(crate) fn needed_trap(&self, page: Gfn) -> CpuTrap {
        let trap = |(_, write)| Self::trap_for(Permission { read: true, write });
        let trap = self.bounce_pages(page).map(trap).max().unwrap_or(CpuTrap::None);
        if trap != CpuTrap::All && self.is_watched(page) {
            return CpuTrap::All;
        }
        if trap == CpuTrap::Writes && self.mover.has_exclusives(page) { CpuTrap::All } else { trap }
    }

    /// Remaps every broken page, with the trap that it needs by now. Traps of other
    /// pages may be stricter than needed, never weaker: [`Self::relax_trap`] finds out when a CPU
    /// touches the page.
    pub(super) fn remap_pages(&mut self, host: &mut impl Host) {
        let mut index = 0;
        while let Some(page) = self.mover.broken(index) {
            let trap = self.needed_trap(page);
            self.mover.set_trap(page, trap);
            index += 1;
        }
        self.mover.remap(host);
    }

    /// Takes a trap off that `page` no longer needs. Returns whether there was one.
    pub(crate) fn relax_trap(&mut self, host: &mut impl Host, page: Gfn) -> bool {
        let needed = self.needed_trap(page);
        if needed == CpuTrap::None {
            self.mover.set_exclusives(page, false);
        }
        if self.needed_trap(page) >= self.mover.trap(page) {
            return false;
        }
        self.mover.break_page(host, page);
        self.remap_pages(host);
        true
    }

    /// From now on loads of `page`, whose stores are trapped, are as well.
    pub(crate) fn trap_loads(&mut self, host: &mut impl Host, page: Gfn) {
        self.mover.set_exclusives(page, true);
        if self.needed_trap(page) > self.mover.trap(page) {
            self.mover.break_page(host, page);
            self.remap_pages(host);
        }
    }

    /// What a CPU loads at `offset` of a trapped `page`: `bytes` bytes, at most 8 and inside the
    /// page, zero-extended.
    pub(crate) fn load(
        &mut self,
        host: &mut impl Host,
        page: Gfn,
        offset: usize,
        bytes: usize,
    ) -> u64 {
        let Some((offset, bytes)) = inside(offset, bytes) else { return 0 };
        let (first, last) = (offset / 8, (offset + bytes - 1) / 8);
        self.propagate(host, page, first..last + 1);
        let at = self.mover.locate(page);
        let shift = 8 * (offset % 8) as u32;
        let mut value = host.load(at, first) >> shift;
        if last != first {
            value |= host.load(at, last) << (64 - shift);
        }
        let unused = 64 - 8 * bytes as u32;
        value << unused >> unused
    }

    /// A CPU stores the low `bytes` bytes, at most 8 and inside the page, of `value` at `offset` of
    /// a trapped `page`. An aligned power of two of bytes appears in each copy at once.
    pub(crate) fn store(
        &mut self,
        host: &mut impl Host,
        page: Gfn,
        offset: usize,
        bytes: usize,
        value: u64,
    ) {
        let Some((offset, bytes)) = inside(offset, bytes) else { return };
        self.propagate(host, page, offset / 8..(offset + bytes - 1) / 8 + 1);
        let (word, shift) = (offset / 8, 8 * (offset % 8) as u32);
        let mask = u64::MAX >> (64 - 8 * bytes);
        let bounce_pages = self.bounce_pages(page).map(|(bounce, _)| bounce);
        for to in bounce_pages.chain([self.mover.locate(page)]).chain(self.twin(page)) {
            store_bytes(host, to, word, mask << shift, value << shift);
            if offset % 8 + bytes > 8 {
                store_bytes(host, to, word + 1, mask >> (64 - shift), value >> (64 - shift));
            }
        }
    }

    /// Brings all copies of `page` up to date, so that one CPU, and no other, may access it
    /// directly at the returned place. [`Self::settle`] must follow before any other call of
    /// the engine.
    pub(crate) fn open(&mut self, host: &mut impl Host, page: Gfn) -> Hfn {
        self.merge_copies(host, page);
        self.mover.locate(page)
    }

    /// Brings what a CPU stored into the opened `page` to all copies.
    pub(crate) fn settle(&mut self, host: &mut impl Host, page: Gfn) {
        if self.twin(page).is_some() {
            self.merge_copies(host, page);
            return;
        }
        // No device writes a bounce page: what differs is new in the page.
        self.refresh_bounce_pages(host, page);
    }

    /// Gives up bounce pages of `page`: their mappings are refused, devices find nothing there, and
    /// once none is left CPUs may do with the page what they like. For accesses that cannot be
    /// carried out on several copies: a fetch of instructions, a walk of tables. A call gives up a
    /// batch of one domain's: the access traps again until all are gone.
    pub(crate) fn drop_bounce_pages(&mut self, host: &mut impl Host, page: Gfn) {
        self.drop_some_bounce_pages(host, page);
        self.relax_trap(host, page);
    }

    /// Gives up every bounce page of `page`.
    pub(super) fn drop_all_bounce_pages(&mut self, host: &mut impl Host, page: Gfn) {
        while self.drop_some_bounce_pages(host, page) {}
        self.relax_trap(host, page);
    }

    /// Gives up some bounce pages of `page`, at most a batch of one domain. False: there is none.
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

    /// Takes the bounce pages away that `changes` of `domain` no longer want.
    fn unmap_bounce_pages(&mut self, host: &mut impl Host, domain: DomainId, changes: &[Change]) {
        let requester = Requester::of(&self.placed(domain).members);
        self.remove(host, requester, domain, changes);
        self.refuse_unmapped(host, requester, Refusal::NotTrappable);
    }
}

/// An access inside a page, or `None` for any other.
fn inside(offset: usize, bytes: usize) -> Option<(usize, usize)> {
    (bytes != 0 && bytes <= 8 && offset.checked_add(bytes)? <= PAGE_BYTES)
        .then_some((offset, bytes))
}
