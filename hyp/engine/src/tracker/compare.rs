//! Comparing one table with its copy, entry by entry.

use oche_types::Invariant;
use oche_types::addr::{Gfn, Hfn, SLOTS};
use oche_types::dart::entry::{ENTRIES, decode_leaf, decode_table};

use crate::granule::Change;
use crate::host::Host;
use crate::tracker::batch::{Batch, Pass};
use crate::tracker::table::{LeafIndex, RootIndex, TableId, TableKind};
use crate::tracker::{TABLE_BYTES, Tracker};

impl Tracker {
    /// Compares the first-level table `id` from entry `next` on, and sets `next` to the entry to
    /// continue with. Returns whether the table has changed.
    #[inline(never)]
    pub(super) fn compare_first<H: Host>(
        &mut self,
        pass: &mut Pass<'_, H>,
        id: TableId,
        root: RootIndex,
        next: &mut usize,
    ) -> bool {
        let is_ending = self.domain(pass.domain).is_ending;
        let from = pass.mover.locate(self.tables.get(id).page);
        let mut is_changed = false;
        while let Some(index) = self.first_change(pass.host, from, id, is_ending, *next) {
            // Unless the entry is handled completely, the next call starts with it.
            *next = index;
            let new = if is_ending { 0 } else { pass.host.load(from, index) };
            let old = *self.copied_entry(id, index);
            // The guest may have changed the entry back since `first_change` read it.
            if new == old {
                *next = index + 1;
                continue;
            }
            is_changed = true;
            if decode_table(new) != decode_table(old)
                && !self.replace_leaf(pass, root.leaf(index), decode_table(new))
            {
                return true;
            }
            *self.copied_entry(id, index) = new;
            *next = index + 1;
            pass.batch.is_sealed |= pass.budget.is_spent();
            if pass.batch.is_full() {
                return true;
            }
        }
        pass.batch.is_sealed |= pass.batch.is_draining;
        is_changed
    }

    /// Replaces a leaf table by the one in `new`, or by none: unmaps everything that the old one
    /// maps and tracks the new one. Returns false if the batch is full, in which case the
    /// first-level entry must be compared again.
    fn replace_leaf<H: Host>(
        &mut self,
        pass: &mut Pass<'_, H>,
        leaf: LeafIndex,
        new: Option<Gfn>,
    ) -> bool {
        let Pass { host, mover, domain, batch, budget } = pass;
        let old = self.domain(*domain).leaf(leaf);
        if old.is_some() && !batch.is_draining {
            // The batch may contain granules of this table.
            if !batch.changes.is_empty() {
                batch.is_sealed = true;
                return false;
            }
            batch.is_draining = true;
        }
        let tables = usize::from(old.is_some()) + usize::from(new.is_some());
        budget.charge(TABLE_BYTES * tables);
        if let Some(old) = old {
            // The batch may be full in the middle of the drain, and the guest may restore the entry
            // before the next one. What was drained is then found by comparing the table, so the
            // table must be unsync.
            let page = self.tables.get(old).page;
            self.mark_unsync(*host, mover, page);
            if !drain(&mut self.tables.get_mut(old).copy, leaf, batch) {
                return false;
            }
            self.untrack(*host, mover, old);
        }
        let kind = TableKind::Leaf(leaf);
        let new = new.and_then(|page| self.track(*host, mover, *domain, kind, page, batch));
        self.domain_mut(*domain).set_leaf(leaf, new);
        true
    }

    /// The first entry from `next` on in which the table `id`, in host page `from`, differs from
    /// its copy.
    fn first_change(
        &self,
        host: &impl Host,
        from: Hfn,
        id: TableId,
        is_ending: bool,
        next: usize,
    ) -> Option<usize> {
        let copy = &self.tables.get(id).copy;
        if is_ending {
            return (next..ENTRIES).find(|index| copy.get(*index) != Some(&0));
        }
        host.first_change(from, copy, next)
    }

    /// Entry `index` of the copy of a table.
    fn copied_entry(&mut self, id: TableId, index: usize) -> &mut u64 {
        self.tables.get_mut(id).copy.get_mut(index).must("a table has 512 entries")
    }

    /// Compares leaf table `leaf`, in host page `from`, with its copy, from entry `next` on, and
    /// sets `next` to the entry to continue with. Returns whether the table has changed.
    pub(super) fn compare_leaf(
        host: &mut impl Host,
        from: Hfn,
        leaf: LeafIndex,
        copy: &mut [u64; ENTRIES],
        next: &mut usize,
        batch: &mut Batch,
    ) -> bool {
        let mut is_changed = false;
        while let Some(changed) = host.first_change(from, copy, *next) {
            let first = changed & !(SLOTS - 1);
            *next = first + SLOTS;
            let old = copy.get_mut(first..).and_then(<[u64]>::first_chunk_mut);
            let old: &mut [u64; SLOTS] = old.must("a table has 512 entries");
            // By words: arrays are compared byte by byte.
            let (mut new, mut diff) = ([0; SLOTS], 0);
            for ((new, old), index) in new.iter_mut().zip(&*old).zip(first..) {
                *new = host.load(from, index);
                diff |= *new ^ old;
            }
            // The guest may have changed the entries back since `first_change` read them.
            if diff == 0 {
                continue;
            }
            is_changed = true;
            *old = new;
            let wanted = new.map(decode_leaf);
            batch.changes.push(Change { granule: leaf.granule(first), wanted });
            if batch.is_full() {
                break;
            }
        }
        is_changed
    }
}

/// Adds a change to `batch` that unmaps each granule that leaf table `leaf` maps by `copy`, which
/// is emptied. Returns false if the batch is full and some granules are left.
fn drain(copy: &mut [u64; ENTRIES], leaf: LeafIndex, batch: &mut Batch) -> bool {
    for (index, entries) in copy.chunks_exact_mut(SLOTS).enumerate() {
        if entries.iter().all(|entry| *entry == 0) {
            continue;
        }
        if batch.is_full() {
            return false;
        }
        entries.fill(0);
        let granule = leaf.granule(index * SLOTS);
        batch.changes.push(Change { granule, wanted: [None; SLOTS] });
    }
    true
}
