//! The tracker's tables as records: taken and given back, found by page, listed while open.

use crate::addr::{Gfn, IovaPage};
use crate::dart::entry::ENTRIES;
use crate::mover::{Mover, NONE};
use crate::trace::{Event, Refusal};
use crate::tracker::{Batch, Kind, Tracked, Tracker, Unwatched};
use crate::world::{SpaceId, World};

impl Tracker {
    /// Begins to watch the table in `page`, open and as if it had been empty. [`NONE`] if it cannot be.
    pub(super) fn watch(
        &mut self,
        world: &mut impl World,
        mover: &mut Mover,
        space: SpaceId,
        kind: Kind,
        page: Gfn,
        batch: &mut Batch,
    ) -> u32 {
        let iova = match kind {
            Kind::First(ttbr) => IovaPage((ttbr * ENTRIES * ENTRIES) as u32),
            Kind::Leaf(number) => IovaPage((number * ENTRIES) as u32),
        };
        if !mover.is_ram(page) {
            batch.unwatched.push(Unwatched { iova, page, reason: Refusal::TableNotGuestMemory });
            return NONE;
        }
        // A page that is closed for another table must let the guest write this one.
        self.open(world, mover, page);
        let index = self.free;
        let (Some(table), Some(record)) = (self.tables.get_mut(index as usize), mover.get_mut(page)) else {
            batch.unwatched.push(Unwatched { iova, page, reason: Refusal::TooManyTables });
            return NONE;
        };
        self.free = table.next_in_page;
        table.page = page;
        table.space = space;
        table.kind = kind;
        table.quiet = 0;
        table.copy.fill(0);
        table.previous_in_page = NONE;
        table.next_in_page = record.table;
        let next = core::mem::replace(&mut record.table, index);
        if let Some(table) = self.tables.get_mut(next as usize) {
            table.previous_in_page = index;
        }
        self.link_open(index);
        world.event(Event::Table { page, is_open: true });
        index
    }

    /// Ceases to watch a table, if `at` is one; the last one in a page lets CPUs' stores through again.
    pub(super) fn unwatch(&mut self, world: &mut impl World, mover: &mut Mover, at: u32) {
        let Some(table) = self.tables.get(at as usize) else { return };
        let page = table.page;
        self.open(world, mover, page);
        self.unlink_open(at);
        let neighbours =
            self.tables.get(at as usize).map(|table| (table.previous_in_page, table.next_in_page));
        let Some((previous, next)) = neighbours else { return };
        match self.tables.get_mut(previous as usize) {
            Some(table) => table.next_in_page = next,
            None => {
                if let Some(record) = mover.get_mut(page) {
                    record.table = next;
                }
            }
        }
        if let Some(table) = self.tables.get_mut(next as usize) {
            table.previous_in_page = previous;
        }
        if let Some(table) = self.tables.get_mut(at as usize) {
            table.next_in_page = self.free;
            self.free = at;
        }
        world.event(Event::Table { page, is_open: true });
    }

    pub(super) fn tracked(&self, space: SpaceId) -> Option<&Tracked> {
        self.spaces.get(usize::from(space.0)).and_then(Option::as_ref)
    }

    pub(super) fn tracked_mut(&mut self, space: SpaceId) -> Option<&mut Tracked> {
        self.spaces.get_mut(usize::from(space.0)).and_then(Option::as_mut)
    }

    pub(super) fn leaf(&self, space: SpaceId, number: usize) -> u32 {
        self.tracked(space).and_then(|tracked| tracked.leaves.get(number)).copied().unwrap_or(NONE)
    }

    pub(super) fn set_leaf(&mut self, space: SpaceId, number: usize, table: u32) {
        if let Some(leaf) = self.tracked_mut(space).and_then(|tracked| tracked.leaves.get_mut(number)) {
            *leaf = table;
        }
    }

    /// The entry `index` of a table, as acted on.
    pub(super) fn entry(&self, at: u32, index: usize) -> u64 {
        self.tables.get(at as usize).and_then(|table| table.copy.get(index)).copied().unwrap_or(0)
    }

    pub(super) fn set_entry(&mut self, at: u32, index: usize, entry: u64) {
        if let Some(old) = self.tables.get_mut(at as usize).and_then(|table| table.copy.get_mut(index)) {
            *old = entry;
        }
    }

    pub(super) fn link_open(&mut self, at: u32) {
        let Some(space) =
            self.tables.get(at as usize).filter(|table| !table.is_open).map(|table| table.space)
        else {
            return;
        };
        let Some(tracked) = self.tracked_mut(space) else { return };
        let last = core::mem::replace(&mut tracked.last_open, at);
        match self.tables.get_mut(last as usize) {
            Some(table) => table.next_open = at,
            None => {
                if let Some(tracked) = self.tracked_mut(space) {
                    tracked.first_open = at;
                }
            }
        }
        if let Some(table) = self.tables.get_mut(at as usize) {
            table.is_open = true;
            table.previous_open = last;
            table.next_open = NONE;
        }
    }

    pub(super) fn unlink_open(&mut self, at: u32) {
        let Some(table) = self.tables.get_mut(at as usize).filter(|table| table.is_open) else { return };
        table.is_open = false;
        let (space, previous, next) = (table.space, table.previous_open, table.next_open);
        if let Some(table) = self.tables.get_mut(previous as usize) {
            table.next_open = next;
        }
        if let Some(table) = self.tables.get_mut(next as usize) {
            table.previous_open = previous;
        }
        let Some(tracked) = self.tracked_mut(space) else { return };
        if tracked.first_open == at {
            tracked.first_open = next;
        }
        if tracked.last_open == at {
            tracked.last_open = previous;
        }
        if tracked.cursor.is_some_and(|(table, _)| table == at) {
            tracked.cursor = Some((next, 0));
        }
    }
}
