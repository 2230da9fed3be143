//! The tracked tables of one domain, and the list of those that are unsync.

use alloc::boxed::Box;

use oche_types::Invariant;
use oche_types::dart::registers::TTBRS;

use crate::heap::bytes_of;
use crate::tracker::table::{LEAF_TABLES, LeafIndex, Links, RootIndex, TableId, Tables};

/// The tables of one domain.
#[derive(Debug)]
pub(super) struct TrackedDomain {
    first: [Option<TableId>; TTBRS],
    leaves: LeafTables,
    /// The ends of the list of unsync tables.
    first_unsync: Option<TableId>,
    last_unsync: Option<TableId>,
    /// Where a pass over the unsync tables continues, if one is under way. A pass compares each
    /// entry once, so it ends even if another CPU continues to write tables.
    pub(super) cursor: Option<Cursor>,
    /// Whether the domain ends: its tables count as empty, whatever the guest's memory holds.
    pub(super) is_ending: bool,
}

/// A position in a pass over the unsync tables of a domain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    /// The next table to compare; `None` after the last one.
    pub(super) table: Option<TableId>,
    /// The next of its entries.
    pub(super) entry: usize,
}

impl Cursor {
    /// The position of the first entry of `table`.
    pub(super) fn at(table: Option<TableId>) -> Self {
        Self { table, entry: 0 }
    }
}

/// The leaf tables of a domain.
#[derive(Debug)]
pub(super) struct LeafTables(Box<[Option<TableId>; LEAF_TABLES]>);

impl LeafTables {
    /// No table.
    pub(super) fn new() -> Self {
        Self(Box::new([None; LEAF_TABLES]))
    }

    /// Bytes of heap that [`Self::new`] takes.
    pub(super) const BYTES: usize = bytes_of::<[Option<TableId>; LEAF_TABLES]>(1);

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }
}

impl TrackedDomain {
    /// A domain without tables. `leaves` has none.
    pub(super) fn new(leaves: LeafTables) -> Self {
        Self {
            first: [None; TTBRS],
            leaves,
            first_unsync: None,
            last_unsync: None,
            cursor: None,
            is_ending: false,
        }
    }

    /// The domain's first-level tables.
    pub(super) fn first_level(&self) -> [Option<TableId>; TTBRS] {
        self.first
    }

    pub(super) fn set_first(&mut self, root: RootIndex, table: Option<TableId>) {
        *self.first.get_mut(root.index()).must("a stream has four TTBRs") = table;
    }

    pub(super) fn leaf(&self, leaf: LeafIndex) -> Option<TableId> {
        *self.leaves.0.get(leaf.index()).must("a domain has 2048 leaf tables")
    }

    pub(super) fn set_leaf(&mut self, leaf: LeafIndex, table: Option<TableId>) {
        *self.leaves.0.get_mut(leaf.index()).must("a domain has 2048 leaf tables") = table;
    }

    /// The list of leaf tables of a domain that ends.
    pub(super) fn into_leaves(self) -> LeafTables {
        self.leaves
    }

    /// The position of the first entry to compare.
    pub(super) fn start(&self) -> Cursor {
        Cursor::at(self.first_unsync)
    }

    /// Adds `id`, a table of this domain, to the unsync tables as the last one, unless it is one.
    pub(super) fn link_unsync(&mut self, tables: &mut Tables, id: TableId) {
        let previous = self.last_unsync;
        let table = tables.get_mut(id);
        if table.is_unsync {
            return;
        }
        table.is_unsync = true;
        table.unsync = Links { previous, next: None };
        self.last_unsync = Some(id);
        match previous {
            Some(previous) => tables.get_mut(previous).unsync.next = Some(id),
            None => self.first_unsync = Some(id),
        }
    }

    /// Takes `id` from the unsync tables, if it is one.
    pub(super) fn unlink_unsync(&mut self, tables: &mut Tables, id: TableId) {
        let table = tables.get_mut(id);
        if !table.is_unsync {
            return;
        }
        table.is_unsync = false;
        let Links { previous, next } = core::mem::take(&mut table.unsync);
        match previous {
            Some(previous) => tables.get_mut(previous).unsync.next = next,
            None => self.first_unsync = next,
        }
        match next {
            Some(next) => tables.get_mut(next).unsync.previous = previous,
            None => self.last_unsync = previous,
        }
        if self.cursor.is_some_and(|cursor| cursor.table == Some(id)) {
            self.cursor = Some(Cursor::at(next));
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn listed(domain: &TrackedDomain, tables: &Tables) -> Vec<TableId> {
        let next = |id: &TableId| tables.get(*id).unsync.next;
        core::iter::successors(domain.first_unsync, next).collect()
    }

    #[test]
    fn the_unsync_tables_are_in_the_order_in_which_they_became_so() {
        let mut tables = Tables::new(4);
        let ids: Vec<TableId> = core::iter::from_fn(|| tables.take()).collect();
        let mut domain = TrackedDomain::new(LeafTables::new());
        for id in [2, 0, 2, 3, 1] {
            domain.link_unsync(&mut tables, ids[id]);
        }
        assert_eq!(listed(&domain, &tables), [ids[2], ids[0], ids[3], ids[1]]);
        // The first, one between others, the last, and one that is none any more.
        for (id, left) in [(2, &[0, 3, 1][..]), (3, &[0, 1]), (1, &[0]), (1, &[0])] {
            domain.unlink_unsync(&mut tables, ids[id]);
            let left: Vec<TableId> = left.iter().map(|left| ids[*left]).collect();
            assert_eq!(listed(&domain, &tables), left);
        }
        domain.link_unsync(&mut tables, ids[1]);
        assert_eq!(listed(&domain, &tables), [ids[0], ids[1]]);
    }

    #[test]
    fn a_pass_continues_behind_the_table_that_is_taken_out_under_it() {
        let mut tables = Tables::new(3);
        let ids: Vec<TableId> = core::iter::from_fn(|| tables.take()).collect();
        let mut domain = TrackedDomain::new(LeafTables::new());
        ids.iter().for_each(|id| domain.link_unsync(&mut tables, *id));
        domain.cursor = Some(Cursor { table: Some(ids[1]), entry: 7 });
        domain.unlink_unsync(&mut tables, ids[0]);
        assert!(domain.cursor.is_some_and(|at| at.table == Some(ids[1]) && at.entry == 7));
        domain.unlink_unsync(&mut tables, ids[1]);
        assert!(domain.cursor.is_some_and(|at| at.table == Some(ids[2]) && at.entry == 0));
        domain.unlink_unsync(&mut tables, ids[2]);
        assert!(domain.cursor.is_some_and(|at| at.table.is_none()));
    }
}
