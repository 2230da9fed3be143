//! The table tracker: finds what the guest has changed in its tables since the last flush, at a
//! cost that depends on what changed.
//!
//! A flush names streams, never addresses, so the tracker keeps a copy of every table of a domain.
//! A table that changes often is *unsync*: the guest writes it without a trap, and each flush
//! compares it with the copy. A table that has been idle is *write-protected*: CPUs' stores to it
//! trap, and the first one makes it unsync again. A flush does not compare a write-protected table.
//!
//! The guest may change a table from another CPU while it is compared. Every entry is therefore
//! read once, and the value that was read is the one that is applied.

mod batch;
mod compare;
mod domain;
pub(crate) mod table;
mod track;

use alloc::vec::Vec;

use oche_types::addr::{Gfn, PAGE_BYTES};
use oche_types::dart::registers::{TTBRS, Ttbr};
use oche_types::event::Event;
use oche_types::{Invariant, invariant};

use crate::budget::Budget;
use crate::granule::GranuleMapper;
use crate::heap::bytes_of;
use crate::host::{DomainId, Host};
use crate::mover::{Mover, NONE};
pub(crate) use crate::tracker::batch::Batch;
use crate::tracker::batch::Pass;
use crate::tracker::domain::{Cursor, LeafTables, TrackedDomain};
use crate::tracker::table::{RootIndex, TableId, TableKind, Tables};

/// Number of comparisons without a change, one at each flush, after which a table is
/// write-protected. Write-protecting it and making it unsync again costs as much: two stage-2
/// changes and a trap.
const IDLE_FLUSHES: u16 = 16;

/// Cost of tracking a table, ceasing to track it, or write-protecting it: its copy is filled or
/// compared, and its page broken and remapped.
const TABLE_BYTES: usize = PAGE_BYTES;

/// All tables of all domains.
#[derive(Debug)]
pub(crate) struct Tracker {
    tables: Tables,
    domains: Vec<Option<TrackedDomain>>,
    /// Empty lists of leaf tables for future domains.
    lists: Vec<LeafTables>,
}

impl Tracker {
    /// Creates a tracker for up to `max_tables` tables in `max_domains` domains.
    pub(crate) fn new(max_tables: usize, max_domains: usize) -> Self {
        Self {
            tables: Tables::new(max_tables),
            domains: (0..max_domains).map(|_| None).collect(),
            lists: (0..max_domains).map(|_| LeafTables::new()).collect(),
        }
    }

    /// Bytes of heap that [`Self::new`] takes.
    pub(crate) const fn bytes(max_tables: usize, max_domains: usize) -> usize {
        Tables::bytes(max_tables)
            + bytes_of::<Option<TrackedDomain>>(max_domains)
            + bytes_of::<LeafTables>(max_domains)
            + max_domains * LeafTables::BYTES
    }

    /// Begins to track the tables in `roots`. Adds those that cannot be tracked to `batch`.
    pub(crate) fn create_domain(
        &mut self,
        host: &mut impl Host,
        mover: &mut Mover,
        domain: DomainId,
        roots: [Ttbr; TTBRS],
        batch: &mut Batch,
    ) {
        let entry = self.domains.get_mut(usize::from(domain.0));
        let entry = entry.must("a domain's number is below the maximum");
        let leaves = self.lists.pop().must("each domain has a list of leaf tables");
        *entry = Some(TrackedDomain::new(leaves));
        for (index, root) in RootIndex::all().zip(roots).filter(|(_, root)| root.valid()) {
            let kind = TableKind::First(index);
            let table = self.track(host, mover, domain, kind, Gfn(root.page()), batch);
            self.domain_mut(domain).set_first(index, table);
        }
    }

    /// Treats every table of `domain` as empty from now on.
    pub(crate) fn end_domain(&mut self, domain: DomainId) {
        let tracked = self.domain_mut(domain);
        tracked.is_ending = true;
        tracked.cursor = None;
        // Leaf tables are drained when the first level is compared, so it must be unsync.
        for table in tracked.first_level().into_iter().flatten() {
            self.link_unsync(table);
        }
    }

    /// Ends `domain`, after a complete pass of [`Self::compare`] since [`Self::end_domain`].
    pub(crate) fn destroy_domain(
        &mut self,
        host: &mut impl Host,
        mover: &mut Mover,
        domain: DomainId,
    ) {
        for table in self.domain(domain).first_level().into_iter().flatten() {
            self.untrack(host, mover, table);
        }
        let ended = self.domains.get_mut(usize::from(domain.0)).and_then(Option::take);
        let leaves = ended.must("the tables of a domain are tracked").into_leaves();
        invariant!(leaves.is_empty(), "a domain that ends has no leaf tables left");
        self.lists.push(leaves);
    }

    /// Makes the next [`Self::compare`] of `domain` start a new pass, which finds all that the
    /// guest has changed so far.
    pub(crate) fn restart(&mut self, domain: DomainId) {
        self.domain_mut(domain).cursor = None;
    }

    /// Adds the differences between the unsync tables of `domain` and their copies to `batch`, and
    /// updates the copies. Returns true if every table has been compared since [`Self::restart`],
    /// or false if the batch is full or `budget` is spent: the next call continues there.
    #[must_use]
    pub(crate) fn compare(
        &mut self,
        host: &mut impl Host,
        mapper: &mut GranuleMapper,
        domain: DomainId,
        batch: &mut Batch,
        budget: &mut Budget,
    ) -> bool {
        let tracked = self.domain_mut(domain);
        let is_ending = tracked.is_ending;
        // Tables that become unsync meanwhile are linked at the end, so this pass reaches them.
        let mut cursor = tracked.cursor.take().unwrap_or(tracked.start());
        while let Some(id) = cursor.table {
            if budget.is_spent() {
                self.save_cursor(domain, cursor);
                return false;
            }
            budget.charge(PAGE_BYTES);
            let mut table = self.tables.get_mut(id);
            let state = mapper.mover.state(table.page);
            let from = state.location(table.page);
            if state.mappings != NONE {
                let reserve = mapper.charge_merge(table.page, budget);
                // A device may have written entries into another copy of the page.
                mapper.merge_copies(host, table.page);
                mapper.refund(reserve, budget);
            }
            let is_changed = match table.kind {
                // It is drained when its first level is compared.
                TableKind::Leaf(_) if is_ending => false,
                TableKind::Leaf(leaf) => {
                    Self::compare_leaf(host, from, leaf, &mut table.copy, &mut cursor.entry, batch)
                }
                TableKind::First(root) => {
                    let mover = &mut mapper.mover;
                    let mut pass = Pass { host, mover, domain, batch, budget };
                    let is_changed = self.compare_first(&mut pass, id, root, &mut cursor.entry);
                    table = self.tables.get_mut(id);
                    is_changed
                }
            };
            table.idle_flushes = if is_changed { 0 } else { table.idle_flushes.saturating_add(1) };
            if batch.is_full() {
                self.save_cursor(domain, cursor);
                return false;
            }
            cursor = Cursor::at(table.unsync.next);
            if table.idle_flushes >= IDLE_FLUSHES {
                self.protect(host, &mut mapper.mover, id, budget);
            }
        }
        true
    }

    /// Makes the next [`Self::compare`] of `domain` continue at `cursor`.
    fn save_cursor(&mut self, domain: DomainId, cursor: Cursor) {
        self.domain_mut(domain).cursor = Some(cursor);
    }

    /// Makes every table in `page` unsync and ends its write protection, if it has that.
    #[inline]
    pub(crate) fn mark_unsync(&mut self, host: &mut impl Host, mover: &mut Mover, page: Gfn) {
        if mover.is_write_protected(page) {
            self.end_protection(host, mover, page);
        }
    }

    #[inline(never)]
    fn end_protection(&mut self, host: &mut impl Host, mover: &mut Mover, page: Gfn) {
        let mut next = mover.state(page).table;
        while let Some(id) = next {
            let table = self.tables.get_mut(id);
            table.idle_flushes = 0;
            next = table.in_page.next;
            self.link_unsync(id);
        }
        unprotect(host, mover, page);
        host.event(Event::Table { page, is_unsync: true });
    }

    /// Write-protects the unsync table `id`, which was just compared and has been idle for long
    /// enough, if that is possible.
    #[inline(never)]
    fn protect(
        &mut self,
        host: &mut impl Host,
        mover: &mut Mover,
        id: TableId,
        budget: &mut Budget,
    ) {
        let table = self.tables.get_mut(id);
        table.idle_flushes = 0;
        let page = table.page;
        budget.charge(TABLE_BYTES);
        // Another unsync table in the page keeps the page writable.
        if self.has_other_unsync(mover, page, id) {
            return;
        }
        // Writes by a device or an untranslated bus master do not trap. A batch that maps the page
        // makes the table unsync again before it is applied.
        if mover.state(page).mappings != NONE
            || mover.is_pinned(page)
            || mover.set_write_protected(host, page, true).is_err()
        {
            return;
        }
        // A CPU may have written the table between the comparison and the protection.
        let from = mover.locate(page);
        if host.first_change(from, &self.tables.get(id).copy, 0).is_none() {
            self.unlink_unsync(id);
            host.event(Event::Table { page, is_unsync: false });
        } else {
            unprotect(host, mover, page);
        }
    }

    fn has_other_unsync(&self, mover: &Mover, page: Gfn, than: TableId) -> bool {
        let mut next = mover.state(page).table;
        while let Some(id) = next {
            let table = self.tables.get(id);
            if id != than && table.is_unsync {
                return true;
            }
            next = table.in_page.next;
        }
        false
    }

    /// Adds a table to the unsync ones of its domain, unless it is one.
    fn link_unsync(&mut self, id: TableId) {
        let domain = self.tables.get(id).domain;
        let domain = tracked(&mut self.domains, domain);
        domain.link_unsync(&mut self.tables, id);
    }

    /// Takes a table from the unsync ones of its domain, if it is one.
    fn unlink_unsync(&mut self, id: TableId) {
        let domain = self.tables.get(id).domain;
        let domain = tracked(&mut self.domains, domain);
        domain.unlink_unsync(&mut self.tables, id);
    }

    /// The tables of `domain`.
    fn domain(&self, domain: DomainId) -> &TrackedDomain {
        let tracked = self.domains.get(usize::from(domain.0)).and_then(Option::as_ref);
        tracked.must("the tables of a domain are tracked")
    }

    /// As [`Self::domain`], mutable.
    fn domain_mut(&mut self, domain: DomainId) -> &mut TrackedDomain {
        tracked(&mut self.domains, domain)
    }
}

/// The tables of `domain`.
fn tracked(domains: &mut [Option<TrackedDomain>], domain: DomainId) -> &mut TrackedDomain {
    let tracked = domains.get_mut(usize::from(domain.0)).and_then(Option::as_mut);
    tracked.must("the tables of a domain are tracked")
}

/// Ends the write protection of `page`.
fn unprotect(host: &mut impl Host, mover: &mut Mover, page: Gfn) {
    // This cannot fail: the page has an entry of its own.
    let unsynced = mover.set_write_protected(host, page, false);
    invariant!(
        unsynced.is_ok(),
        "a write-protected page has an entry of its own and can be unsync again: {page:?}"
    );
}
