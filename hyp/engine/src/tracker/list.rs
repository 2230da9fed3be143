//! The lists of the tracker's tables: free ones, those in a page, and the unsync ones of a domain.

use oche_types::Invariant;
use oche_types::addr::{Gfn, IovaPage};
use oche_types::dart::entry::ENTRIES;
use oche_types::event::{Event, Refusal};

use crate::host::{DomainId, Host};
use crate::mover::{Mover, NONE};
use crate::tracker::{Batch, RejectedTable, Table, TableKind, TrackedDomain, Tracker};

impl Tracker {
    /// Begins to track the table in `page`, unsync and with an empty copy. Returns its index, or
    /// [`NONE`] if it cannot be tracked.
    pub(super) fn track(
        &mut self,
        host: &mut impl Host,
        mover: &mut Mover,
        domain: DomainId,
        kind: TableKind,
        page: Gfn,
        batch: &mut Batch,
    ) -> u32 {
        let iova = match kind {
            TableKind::First(ttbr) => IovaPage((ttbr * ENTRIES * ENTRIES) as u32),
            TableKind::Leaf(number) => IovaPage((number * ENTRIES) as u32),
        };
        if !mover.is_ram(page) {
            batch.rejected.push(RejectedTable { iova, page, reason: Refusal::TableNotGuestMemory });
            return NONE;
        }
        // The page may be write-protected for another table in it.
        self.mark_unsync(host, mover, page);
        let index = self.free;
        let Some(table) = self.at_mut(index) else {
            batch.rejected.push(RejectedTable { iova, page, reason: Refusal::TooManyTables });
            return NONE;
        };
        let next = core::mem::replace(&mut mover.state_mut(page).table, index);
        let free = core::mem::replace(&mut table.next_in_page, next);
        table.page = page;
        table.domain = domain;
        table.kind = kind;
        table.idle_flushes = 0;
        table.copy.fill(0);
        table.previous_in_page = NONE;
        self.free = free;
        if let Some(table) = self.at_mut(next) {
            table.previous_in_page = index;
        }
        self.link_unsync(index);
        host.event(Event::Table { page, is_unsync: true });
        index
    }

    /// Ceases to track table `at`, unless that is [`NONE`], and ends the write protection of its
    /// page.
    pub(super) fn untrack(&mut self, host: &mut impl Host, mover: &mut Mover, at: u32) {
        let Some(table) = self.at(at) else { return };
        let page = table.page;
        self.mark_unsync(host, mover, page);
        self.unlink_unsync(at);
        let table = self.table(at);
        let (previous, next) = (table.previous_in_page, table.next_in_page);
        match self.at_mut(previous) {
            Some(table) => table.next_in_page = next,
            None => {
                mover.state_mut(page).table = next;
            }
        }
        if let Some(table) = self.at_mut(next) {
            table.previous_in_page = previous;
        }
        let free = core::mem::replace(&mut self.free, at);
        self.table_mut(at).next_in_page = free;
        host.event(Event::Table { page, is_unsync: true });
    }

    /// The table with index `at`; `None` for [`NONE`].
    pub(super) fn at(&self, at: u32) -> Option<&Table> {
        (at != NONE)
            .then(|| self.tables.get(at as usize).must("a list of tables is made of tables"))
    }

    /// As [`Self::at`], mutable.
    pub(super) fn at_mut(&mut self, at: u32) -> Option<&mut Table> {
        (at != NONE)
            .then(|| self.tables.get_mut(at as usize).must("a list of tables is made of tables"))
    }

    /// Table `at`, which is not [`NONE`].
    pub(super) fn table(&self, at: u32) -> &Table {
        self.at(at).must("an index names a table")
    }

    /// As [`Self::table`], mutable.
    pub(super) fn table_mut(&mut self, at: u32) -> &mut Table {
        self.at_mut(at).must("an index names a table")
    }

    /// The tables of `domain`.
    pub(super) fn tracked(&self, domain: DomainId) -> &TrackedDomain {
        let tracked = self.domains.get(usize::from(domain.0)).and_then(Option::as_ref);
        tracked.must("the tables of a domain are tracked")
    }

    /// As [`Self::tracked`], mutable.
    pub(super) fn tracked_mut(&mut self, domain: DomainId) -> &mut TrackedDomain {
        let tracked = self.domains.get_mut(usize::from(domain.0)).and_then(Option::as_mut);
        tracked.must("the tables of a domain are tracked")
    }

    pub(super) fn leaf(&self, domain: DomainId, number: usize) -> u32 {
        *self.tracked(domain).leaves.get(number).must("a domain has 2048 leaf tables")
    }

    pub(super) fn set_leaf(&mut self, domain: DomainId, number: usize, table: u32) {
        let leaf = self.tracked_mut(domain).leaves.get_mut(number);
        *leaf.must("a domain has 2048 leaf tables") = table;
    }

    /// Entry `index` of the copy of a table.
    pub(super) fn entry(&self, at: u32, index: usize) -> u64 {
        *self.table(at).copy.get(index).must("a table has 512 entries")
    }

    pub(super) fn set_entry(&mut self, at: u32, index: usize, entry: u64) {
        *self.table_mut(at).copy.get_mut(index).must("a table has 512 entries") = entry;
    }

    pub(super) fn link_unsync(&mut self, at: u32) {
        let Some(domain) = self.at(at).filter(|table| !table.is_unsync).map(|table| table.domain)
        else {
            return;
        };
        let tracked = self.tracked_mut(domain);
        let last = core::mem::replace(&mut tracked.last_unsync, at);
        match self.at_mut(last) {
            Some(table) => table.next_unsync = at,
            None => {
                self.tracked_mut(domain).first_unsync = at;
            }
        }
        let table = self.table_mut(at);
        table.is_unsync = true;
        table.previous_unsync = last;
        table.next_unsync = NONE;
    }

    pub(super) fn unlink_unsync(&mut self, at: u32) {
        let Some(table) = self.at_mut(at).filter(|table| table.is_unsync) else { return };
        table.is_unsync = false;
        let (domain, previous, next) = (table.domain, table.previous_unsync, table.next_unsync);
        if let Some(table) = self.at_mut(previous) {
            table.next_unsync = next;
        }
        if let Some(table) = self.at_mut(next) {
            table.previous_unsync = previous;
        }
        let tracked = self.tracked_mut(domain);
        if tracked.first_unsync == at {
            tracked.first_unsync = next;
        }
        if tracked.last_unsync == at {
            tracked.last_unsync = previous;
        }
        if tracked.cursor.is_some_and(|(table, _)| table == at) {
            tracked.cursor = Some((next, 0));
        }
    }
}
