//! Keeping the copies of an alias equal, by difference against what all last agreed on.

use crate::addr::{Gfn, Hfn, PAGE_WORDS};
use crate::placement::Placement;
use crate::placement::alias::Mapping;
use crate::placement::book::{Form, Slot};
use crate::trace::Event;
use crate::world::{Memory, World};

impl Placement {
    /// The slot that `mapping` is, and the frame page that backs it.
    pub(super) fn slot_of(&self, mapping: Mapping) -> Option<(Slot, Form, Hfn)> {
        let record = self.record(mapping.space, mapping.iova.granule());
        let slot = record.slots.get(mapping.iova.slot()).copied().flatten()?;
        match record.form {
            Form::Direct(frame) | Form::Composed(frame) => {
                Some((slot, record.form, frame.page(mapping.iova.slot())))
            }
            Form::Empty => None,
        }
    }

    /// The mappings of `page`.
    pub(super) fn mappings(&self, page: Gfn) -> impl Iterator<Item = Mapping> {
        self.aliases.iter(self.mover.get(page).map_or(crate::mover::NONE, |record| record.mappings))
    }

    /// Replicas of `page`: where they lie and whether a device may write them.
    pub(super) fn replicas(&self, page: Gfn) -> impl Iterator<Item = (Hfn, bool)> {
        self.mappings(page)
            .filter_map(|mapping| self.slot_of(mapping))
            .filter(|(slot, _, _)| slot.is_replica && slot.is_filled)
            .map(|(slot, _, at)| (at, slot.permission.write))
    }

    /// Whether `page` is reached at home by a direct granule, so that it cannot leave.
    pub(super) fn is_pinned_home(&self, page: Gfn) -> bool {
        self.mappings(page)
            .filter_map(|mapping| self.slot_of(mapping))
            .any(|(_, form, _)| matches!(form, Form::Direct(_)))
    }

    /// Brings what devices wrote into replicas of `page` to where CPUs see it, and what changed there to
    /// every replica. A page without a replica that a device may write has no base and needs none.
    ///
    /// CPUs and devices may write meanwhile: each byte that changed is stored singly, and the new base is
    /// read once, so a byte written during the merge is found by the next one.
    pub(super) fn merge_copies(&mut self, world: &mut impl World, page: Gfn) {
        let (Some(base), Some(next)) = (self.base(page), self.scratch) else { return };
        let primary = self.mover.locate(page);
        let mut bytes = 0;
        for (replica, is_writable) in self.replicas(page) {
            if is_writable {
                bytes += world.merge_page(base, replica, primary);
            }
        }
        world.copy_page(primary, next);
        let mut differs = 0;
        for (replica, _) in self.replicas(page) {
            differs = differs.max(bring_forward(world, base, next, replica));
        }
        if differs != 0 {
            world.copy_page(next, base);
        }
        if bytes + differs != 0 {
            world.event(Event::Merged { page, bytes: bytes.max(differs) as u32 });
        }
    }

    /// The page that holds what the copies of `page` last agreed on.
    pub(super) fn base(&self, page: Gfn) -> Option<Hfn> {
        self.mover.get(page).map(|record| record.base).filter(|base| *base != 0).map(Hfn)
    }

    /// Gives the base of `page` back once no device may write a replica of it.
    pub(super) fn drop_unneeded_base(&mut self, world: &mut impl World, page: Gfn) {
        let Some(base) = self.base(page) else { return };
        if self.replicas(page).any(|(_, is_writable)| is_writable) {
            return;
        }
        self.pool.give_page(world, base);
        if let Some(record) = self.mover.get_mut(page) {
            record.base = 0;
        }
    }

    /// After a mapping of `page` went: makes a replica the page itself, unless a mapping that is no
    /// replica is left. The page must be out of the CPUs' reach; otherwise it stays where it is.
    pub(super) fn promote(&mut self, world: &mut impl World, page: Gfn) {
        let mut heir = None;
        for mapping in self.mappings(page) {
            match self.slot_of(mapping) {
                Some((slot, _, at)) if slot.is_replica => heir = heir.or(Some((mapping, at))),
                Some(_) => return,
                None => {}
            }
        }
        let Some((mapping, at)) = heir else { return };
        if !self.mover.can_move(page) {
            return;
        }
        if self.base(page).is_some() {
            self.merge_copies(world, page);
        }
        // Without a base no device writes the replica, and CPUs may have written the page since.
        // With one, this stores what is there already, but for a byte that both wrote.
        let primary = self.mover.locate(page);
        if self.base(page).is_none() {
            world.copy_page(primary, at);
        }
        self.mover.place(world, page, at);
        let mut record = self.record(mapping.space, mapping.iova.granule());
        if let Some(Some(slot)) = record.slots.get_mut(mapping.iova.slot()) {
            slot.is_replica = false;
        }
        self.set_record(mapping.space, mapping.iova.granule(), record);
    }
}

/// Stores into `to` each byte in which `changed` differs from `base`, except where `to` differs as well:
/// a device's own, newer write stays. Returns how many bytes differed.
pub(super) fn bring_forward(memory: &mut impl Memory, base: Hfn, changed: Hfn, to: Hfn) -> usize {
    let mut bytes = 0;
    for word in 0..PAGE_WORDS {
        let new = memory.load(changed, word);
        let old = memory.load(base, word);
        if new == old {
            continue;
        }
        let there = memory.load(to, word);
        for (index, value) in new.to_le_bytes().into_iter().enumerate() {
            let mask = 0xff << (8 * index);
            if (new ^ old) & mask != 0 {
                bytes += 1;
                if (there ^ old) & mask == 0 {
                    memory.store_byte(to, word * 8 + index, value);
                }
            }
        }
    }
    bytes
}
