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

mod compare;
mod list;

use alloc::boxed::Box;
use alloc::vec::Vec;

use oche_types::addr::{Gfn, IovaPage, PAGE_BYTES};
use oche_types::dart::entry::ENTRIES;
use oche_types::dart::registers::{TTBRS, Ttbr};
use oche_types::event::{Event, Refusal};
use oche_types::{Invariant, invariant};

use crate::budget::Budget;
use crate::granule::{BATCH, Change, GranuleMapper};
use crate::heap::bytes_of;
use crate::host::{DomainId, Host};
use crate::mover::{Mover, NONE};

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
    tables: Vec<Table>,
    free: u32,
    domains: Vec<Option<TrackedDomain>>,
    /// Empty lists of leaf tables for future domains.
    lists: Vec<Box<[u32; TTBRS * ENTRIES]>>,
}

/// The tables of one domain.
#[derive(Debug)]
struct TrackedDomain {
    /// First-level tables by TTBR.
    first: [u32; TTBRS],
    /// Leaf tables by TTBR and first-level index.
    leaves: Box<[u32; TTBRS * ENTRIES]>,
    /// Ends of the list of unsync tables.
    first_unsync: u32,
    last_unsync: u32,
    /// The next table to compare and the next of its entries, while a pass over the unsync tables
    /// is under way. A pass compares each entry once, so it ends even if another CPU continues to
    /// write tables.
    cursor: Option<(u32, usize)>,
    /// Whether the domain ends: its tables count as empty, whatever the guest's memory holds.
    is_ending: bool,
}

#[derive(Debug)]
struct Table {
    page: Gfn,
    domain: DomainId,
    kind: TableKind,
    /// The entries as applied.
    copy: Box<[u64; ENTRIES]>,
    is_unsync: bool,
    idle_flushes: u16,
    /// The tables before and after it in the same guest page. In a free table, `next_in_page` is
    /// the next free one.
    previous_in_page: u32,
    next_in_page: u32,
    previous_unsync: u32,
    next_unsync: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TableKind {
    /// The first-level table of the TTBR with this index.
    First(usize),
    /// The leaf table with this number: the TTBR's index times 512, plus the first-level index.
    Leaf(usize),
}

/// A table that cannot be tracked, to be reported as a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RejectedTable {
    /// The first page of IOVAs that the table would map.
    pub(crate) iova: IovaPage,
    /// The page in the guest's TTBR or first-level entry.
    pub(crate) page: Gfn,
    pub(crate) reason: Refusal,
}

/// The result of one round of comparison. It names each granule at most once.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) changes: Vec<Change>,
    pub(crate) rejected: Vec<RejectedTable>,
    /// Whether tables are being drained into the batch. The tables that replace them map the same
    /// granules, so nothing else may be added.
    is_draining: bool,
    /// Whether nothing more may be added.
    is_sealed: bool,
}

impl Batch {
    /// Bytes of heap that [`Self::new`] takes.
    pub(crate) const BYTES: usize = bytes_of::<Change>(BATCH) + bytes_of::<RejectedTable>(BATCH);

    pub(crate) fn new() -> Self {
        Self {
            changes: Vec::with_capacity(BATCH),
            rejected: Vec::with_capacity(BATCH),
            is_draining: false,
            is_sealed: false,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.changes.clear();
        self.rejected.clear();
        self.is_draining = false;
        self.is_sealed = false;
    }

    fn is_full(&self) -> bool {
        self.is_sealed || self.changes.len() >= BATCH || self.rejected.len() >= BATCH
    }
}

impl Tracker {
    /// Creates a tracker for up to `max_tables` tables in `max_domains` domains.
    pub(crate) fn new(max_tables: usize, max_domains: usize) -> Self {
        let table = |index: usize| Table {
            page: Gfn(0),
            domain: DomainId(0),
            kind: TableKind::First(0),
            copy: Box::new([0; ENTRIES]),
            is_unsync: false,
            idle_flushes: 0,
            previous_in_page: NONE,
            next_in_page: if index + 1 == max_tables { NONE } else { index as u32 + 1 },
            previous_unsync: NONE,
            next_unsync: NONE,
        };
        Self {
            tables: (0..max_tables).map(table).collect(),
            free: if max_tables == 0 { NONE } else { 0 },
            domains: (0..max_domains).map(|_| None).collect(),
            lists: (0..max_domains).map(|_| Box::new([NONE; TTBRS * ENTRIES])).collect(),
        }
    }

    /// Bytes of heap that [`Self::new`] takes.
    pub(crate) const fn bytes(max_tables: usize, max_domains: usize) -> usize {
        bytes_of::<Table>(max_tables)
            + max_tables * bytes_of::<[u64; ENTRIES]>(1)
            + bytes_of::<Option<TrackedDomain>>(max_domains)
            + bytes_of::<Box<[u32; TTBRS * ENTRIES]>>(max_domains)
            + max_domains * bytes_of::<[u32; TTBRS * ENTRIES]>(1)
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
        let entry = self
            .domains
            .get_mut(usize::from(domain.0))
            .must("a domain's number is below the maximum");
        let leaves = self.lists.pop().must("each domain has a list of leaf tables");
        *entry = Some(TrackedDomain {
            first: [NONE; TTBRS],
            leaves,
            first_unsync: NONE,
            last_unsync: NONE,
            cursor: None,
            is_ending: false,
        });
        for (index, root) in roots.into_iter().enumerate().filter(|(_, root)| root.valid()) {
            let table =
                self.track(host, mover, domain, TableKind::First(index), Gfn(root.page()), batch);
            *self.tracked_mut(domain).first.get_mut(index).must("a stream has four TTBRs") = table;
        }
    }

    /// Treats every table of `domain` as empty from now on.
    pub(crate) fn end_domain(&mut self, domain: DomainId) {
        let tracked = self.tracked_mut(domain);
        tracked.is_ending = true;
        tracked.cursor = None;
        // Leaf tables are drained when the first level is compared, so it must be unsync.
        for table in tracked.first {
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
        for table in self.tracked(domain).first {
            self.untrack(host, mover, table);
        }
        let ended = self.domains.get_mut(usize::from(domain.0)).and_then(Option::take);
        let leaves = ended.must("the tables of a domain are tracked").leaves;
        invariant!(
            leaves.iter().all(|leaf| *leaf == NONE),
            "a domain that ends has no leaf tables left"
        );
        self.lists.push(leaves);
    }

    /// Makes the next [`Self::compare`] of `domain` start a new pass, which finds all that the
    /// guest has changed so far.
    pub(crate) fn restart(&mut self, domain: DomainId) {
        self.tracked_mut(domain).cursor = None;
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
        let tracked = self.tracked(domain);
        // Tables that become unsync meanwhile are linked at the end, so this pass reaches them.
        let (mut at, mut next) = tracked.cursor.unwrap_or((tracked.first_unsync, 0));
        while let Some((page, kind)) = self.at(at).map(|table| (table.page, table.kind)) {
            if budget.is_spent() {
                self.save_cursor(domain, at, next);
                return false;
            }
            budget.charge(PAGE_BYTES);
            if mapper.mover.state(page).mappings != NONE {
                let reserve = mapper.charge_merge(page, budget);
                // A device may have written entries into another copy of the page.
                mapper.merge_copies(host, page);
                mapper.refund(reserve, budget);
            }
            let mover = &mut mapper.mover;
            let is_changed = match kind {
                TableKind::First(ttbr) => {
                    self.compare_first(host, mover, domain, at, ttbr, &mut next, batch, budget)
                }
                TableKind::Leaf(number) => {
                    self.compare_leaf(host, mover, at, number, &mut next, batch)
                }
            };
            let table = self.table_mut(at);
            table.idle_flushes = if is_changed { 0 } else { table.idle_flushes.saturating_add(1) };
            if batch.is_full() {
                self.save_cursor(domain, at, next);
                return false;
            }
            let compared = at;
            next = 0;
            at = table.next_unsync;
            self.protect_if_idle(host, mover, compared, budget);
        }
        self.restart(domain);
        true
    }

    /// Makes the next [`Self::compare`] of `domain` continue with entry `next` of table `at`.
    fn save_cursor(&mut self, domain: DomainId, at: u32, next: usize) {
        self.tracked_mut(domain).cursor = Some((at, next));
    }

    /// Makes every table in `page` unsync and ends its write protection. Returns false if the page
    /// holds no tracked table.
    pub(crate) fn mark_unsync(
        &mut self,
        host: &mut impl Host,
        mover: &mut Mover,
        page: Gfn,
    ) -> bool {
        let Some(mut at) = mover.get(page).map(|state| state.table) else { return false };
        let found = at != NONE;
        if found && mover.is_write_protected(page) {
            while let Some(table) = self.at_mut(at) {
                table.idle_flushes = 0;
                let (is_unsync, next) = (table.is_unsync, table.next_in_page);
                if !is_unsync {
                    self.link_unsync(at);
                }
                at = next;
            }
            // Making it unsync cannot fail: the page has an entry of its own.
            let unsynced = mover.set_write_protected(host, page, false);
            invariant!(
                unsynced.is_ok(),
                "a write-protected page has an entry of its own and can be unsync again: {page:?}"
            );
            host.event(Event::Table { page, is_unsync: true });
        }
        found
    }

    /// Write-protects the unsync table `at`, which was just compared, if it has been idle for long
    /// enough.
    fn protect_if_idle(
        &mut self,
        host: &mut impl Host,
        mover: &mut Mover,
        at: u32,
        budget: &mut Budget,
    ) {
        let table = self.table_mut(at);
        if table.idle_flushes < IDLE_FLUSHES || !table.is_unsync {
            return;
        }
        table.idle_flushes = 0;
        let page = table.page;
        budget.charge(TABLE_BYTES);
        // Another unsync table in the page keeps the page writable.
        if self.has_other_unsync(mover, page, at) {
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
        let table = self.table(at);
        if host.first_change(from, &table.copy, 0).is_none() {
            self.unlink_unsync(at);
            host.event(Event::Table { page, is_unsync: false });
        } else {
            let unsynced = mover.set_write_protected(host, page, false);
            invariant!(
                unsynced.is_ok(),
                "what was just write-protected can be unsync again: {page:?}"
            );
        }
    }

    fn has_other_unsync(&self, mover: &Mover, page: Gfn, than: u32) -> bool {
        let mut at = mover.state(page).table;
        while let Some(table) = self.at(at) {
            if at != than && table.is_unsync {
                return true;
            }
            at = table.next_in_page;
        }
        false
    }
}
