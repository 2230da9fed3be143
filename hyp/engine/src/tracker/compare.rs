//! Comparing one table with its copy, entry by entry.

use oche_types::Invariant;
use oche_types::addr::{Gfn, Granule, Hfn, SLOTS};
use oche_types::dart::entry::{ENTRIES, decode_leaf, decode_table};

use crate::budget::Budget;
use crate::granule::Change;
use crate::host::{DomainId, Host};
use crate::mover::{Mover, NONE};
use crate::tracker::{Batch, TABLE_BYTES, TableKind, Tracker};

impl Tracker {
    /// Compares the first-level table `at` from entry `next` on, and sets `next` to the entry to
    /// continue with. Returns whether the table has changed.
    #[expect(clippy::too_many_arguments, reason = "one step of a pass, named")]
    pub(super) fn compare_first(
        &mut self,
        host: &mut impl Host,
        mover: &mut Mover,
        domain: DomainId,
        at: u32,
        ttbr: usize,
        next: &mut usize,
        batch: &mut Batch,
        budget: &mut Budget,
    ) -> bool {
        let is_ending = self.tracked(domain).is_ending;
        let from = mover.locate(self.table(at).page);
        let mut is_changed = false;
        while let Some(index) = self.first_change(host, from, at, is_ending, *next) {
            // Unless the entry is handled completely, the next call starts with it.
            *next = index;
            let new = if is_ending { 0 } else { host.load(from, index) };
            let old = self.entry(at, index);
            // The guest may have changed the entry back since `first_change` read it.
            if new == old {
                *next = index + 1;
                continue;
            }
            is_changed = true;
            let number = ttbr * ENTRIES + index;
            if decode_table(new) != decode_table(old)
                && !self.replace_leaf(host, mover, domain, number, decode_table(new), batch, budget)
            {
                return true;
            }
            self.set_entry(at, index, new);
            *next = index + 1;
            batch.is_sealed |= budget.is_spent();
            if batch.is_full() {
                return true;
            }
        }
        batch.is_sealed |= batch.is_draining;
        is_changed
    }

    /// Replaces leaf table `number` of `domain` by the one in `new`, or by none: unmaps everything
    /// that the old one maps and tracks the new one. Returns false if the batch is full, in which
    /// case the first-level entry must be compared again.
    #[expect(clippy::too_many_arguments, reason = "one step of a pass, named")]
    fn replace_leaf(
        &mut self,
        host: &mut impl Host,
        mover: &mut Mover,
        domain: DomainId,
        number: usize,
        new: Option<Gfn>,
        batch: &mut Batch,
        budget: &mut Budget,
    ) -> bool {
        let leaf = self.leaf(domain, number);
        if leaf != NONE && !batch.is_draining {
            // The batch may contain granules of this table.
            if !batch.changes.is_empty() {
                batch.is_sealed = true;
                return false;
            }
            batch.is_draining = true;
        }
        let tables = usize::from(leaf != NONE) + usize::from(new.is_some());
        budget.charge(TABLE_BYTES * tables);
        // The batch may be full in the middle of the drain, and the guest may restore the entry
        // before the next one. What was drained is then found by comparing the table, so the table
        // must be unsync.
        if let Some(page) = self.at(leaf).map(|table| table.page) {
            self.mark_unsync(host, mover, page);
        }
        if leaf != NONE && !self.drain(leaf, number, batch) {
            return false;
        }
        self.untrack(host, mover, leaf);
        let new_leaf = match new {
            Some(table) => self.track(host, mover, domain, TableKind::Leaf(number), table, batch),
            None => NONE,
        };
        self.set_leaf(domain, number, new_leaf);
        true
    }

    /// The first entry from `next` on in which the table `at`, in host page `from`, differs from
    /// its copy.
    fn first_change(
        &self,
        host: &impl Host,
        from: Hfn,
        at: u32,
        is_ending: bool,
        next: usize,
    ) -> Option<usize> {
        let table = self.table(at);
        if is_ending {
            return (next..ENTRIES).find(|index| table.copy.get(*index) != Some(&0));
        }
        host.first_change(from, &table.copy, next)
    }

    /// Compares the leaf table `at` from entry `next` on, and sets `next` to the entry to continue
    /// with. Returns whether the table has changed.
    pub(super) fn compare_leaf(
        &mut self,
        host: &mut impl Host,
        mover: &mut Mover,
        at: u32,
        number: usize,
        next: &mut usize,
        batch: &mut Batch,
    ) -> bool {
        let table = self.table(at);
        let (page, domain) = (table.page, table.domain);
        if self.tracked(domain).is_ending {
            // It is drained when its first level is compared.
            return false;
        }
        let from = mover.locate(page);
        let mut is_changed = false;
        loop {
            let table = self.table_mut(at);
            let Some(changed) = host.first_change(from, &table.copy, *next) else {
                return is_changed;
            };
            let first = changed & !(SLOTS - 1);
            *next = first + SLOTS;
            let old = table.copy.get_mut(first..).and_then(<[u64]>::first_chunk_mut);
            let old: &mut [u64; SLOTS] = old.must("a table has 512 entries");
            let mut new = [0; SLOTS];
            for (slot, new) in new.iter_mut().enumerate() {
                *new = host.load(from, first + slot);
            }
            if old.iter().zip(new).all(|(old, new)| *old == new) {
                continue;
            }
            is_changed = true;
            *old = new;
            let wanted = new.map(decode_leaf);
            batch.changes.push(Change { granule: granule(number, first), wanted });
            if batch.is_full() {
                return is_changed;
            }
        }
    }

    /// Adds a change to `batch` that unmaps each granule of a leaf table. Returns false if the
    /// batch is full and some granules are left.
    fn drain(&mut self, at: u32, number: usize, batch: &mut Batch) -> bool {
        let table = self.table_mut(at);
        for (index, entries) in table.copy.chunks_exact_mut(SLOTS).enumerate() {
            if entries.iter().all(|entry| *entry == 0) {
                continue;
            }
            if batch.is_full() {
                return false;
            }
            entries.fill(0);
            batch
                .changes
                .push(Change { granule: granule(number, index * SLOTS), wanted: [None; SLOTS] });
        }
        true
    }
}

/// The granule of entry `first` of leaf table `number`.
fn granule(number: usize, first: usize) -> Granule {
    Granule(((number * ENTRIES + first) / SLOTS) as u32)
}
