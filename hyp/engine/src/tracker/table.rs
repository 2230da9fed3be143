//! The tracked tables: an arena that is never larger than at the start, and the types that name a
//! table in it and in its domain.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::num::NonZeroU32;

use oche_types::Invariant;
use oche_types::addr::{Gfn, Granule, IovaPage, SLOTS};
use oche_types::dart::entry::ENTRIES;
use oche_types::dart::registers::TTBRS;

use crate::heap::bytes_of;
use crate::host::DomainId;

/// The leaf tables of a domain, those that do not exist included.
pub(super) const LEAF_TABLES: usize = TTBRS * ENTRIES;

/// A table of the arena. It is the index plus one, so that an `Option` of it is no larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableId(NonZeroU32);

impl TableId {
    fn new(index: usize) -> Self {
        let number = u32::try_from(index + 1).ok().and_then(NonZeroU32::new);
        Self(number.must("a table's index fits into 32 bits"))
    }

    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// The index of a TTBR of a stream, and so of a first-level table in its domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RootIndex(u8);

impl RootIndex {
    /// All TTBRs of a stream.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..TTBRS as u8).map(Self)
    }

    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The leaf table that entry `entry` of this first-level table names.
    pub(super) fn leaf(self, entry: usize) -> LeafIndex {
        LeafIndex((usize::from(self.0) * ENTRIES + entry) as u16)
    }
}

/// The index of a leaf table in its domain: the TTBR's index times 512, plus the first-level index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LeafIndex(u16);

const _: () = assert!(LEAF_TABLES <= u16::MAX as usize, "a leaf table's index has 16 bits");

impl LeafIndex {
    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The granule that entry `entry` of this leaf table is a part of.
    pub(super) fn granule(self, entry: usize) -> Granule {
        Granule((u32::from(self.0) * ENTRIES as u32 + entry as u32) / SLOTS as u32)
    }
}

/// What a table is in its domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableKind {
    First(RootIndex),
    Leaf(LeafIndex),
}

impl TableKind {
    /// The first page of IOVAs that the table maps.
    pub(super) fn iova(self) -> IovaPage {
        match self {
            Self::First(root) => IovaPage(u32::from(root.0) * (ENTRIES * ENTRIES) as u32),
            Self::Leaf(leaf) => IovaPage(u32::from(leaf.0) * ENTRIES as u32),
        }
    }
}

/// A tracked table.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) page: Gfn,
    pub(super) domain: DomainId,
    pub(super) kind: TableKind,
    /// The entries as applied.
    pub(super) copy: Box<[u64; ENTRIES]>,
    pub(super) is_unsync: bool,
    pub(super) idle_flushes: u16,
    /// The tables of the same guest page.
    pub(super) in_page: Links,
    /// The unsync tables of the same domain.
    pub(super) unsync: Links,
}

/// The neighbours of a table in a list.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Links {
    pub(super) previous: Option<TableId>,
    pub(super) next: Option<TableId>,
}

/// All tables, those that are not in use included.
#[derive(Debug)]
pub(super) struct Tables {
    tables: Vec<Table>,
    /// The first table that is not in use. The others follow in `in_page.next`.
    free: Option<TableId>,
}

impl Tables {
    /// Creates `count` tables, none of which is in use.
    pub(super) fn new(count: usize) -> Self {
        let following = |index: usize| (index + 1 < count).then(|| TableId::new(index + 1));
        let table = |index: usize| Table {
            page: Gfn(0),
            domain: DomainId(0),
            kind: TableKind::First(RootIndex(0)),
            copy: Box::new([0; ENTRIES]),
            is_unsync: false,
            idle_flushes: 0,
            in_page: Links { previous: None, next: following(index) },
            unsync: Links::default(),
        };
        Self {
            tables: (0..count).map(table).collect(),
            free: (count != 0).then(|| TableId::new(0)),
        }
    }

    /// Bytes of heap that [`Self::new`] takes.
    pub(super) const fn bytes(count: usize) -> usize {
        bytes_of::<Table>(count) + count * bytes_of::<[u64; ENTRIES]>(1)
    }

    pub(super) fn get(&self, id: TableId) -> &Table {
        self.tables.get(id.index()).must("an id names a table")
    }

    pub(super) fn get_mut(&mut self, id: TableId) -> &mut Table {
        self.tables.get_mut(id.index()).must("an id names a table")
    }

    /// Takes a table that is not in use. `None` if all are.
    pub(super) fn take(&mut self) -> Option<TableId> {
        let id = self.free?;
        self.free = self.get(id).in_page.next;
        Some(id)
    }

    /// Returns a table that is in no list.
    pub(super) fn give(&mut self, id: TableId) {
        let next = self.free.replace(id);
        self.get_mut(id).in_page = Links { previous: None, next };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_table_is_taken_once_until_it_is_given_back() {
        let mut tables = Tables::new(3);
        let taken: Vec<TableId> = core::iter::from_fn(|| tables.take()).collect();
        assert_eq!(taken, [TableId::new(0), TableId::new(1), TableId::new(2)]);
        tables.give(TableId::new(1));
        assert_eq!(tables.take(), Some(TableId::new(1)));
        assert_eq!(tables.take(), None);
        assert_eq!(Tables::new(0).take(), None);
    }

    #[test]
    fn an_absent_table_takes_no_further_memory() {
        assert_eq!(size_of::<Option<TableId>>(), size_of::<u32>());
    }

    #[test]
    fn a_leaf_table_maps_what_its_first_level_entry_names() {
        let root = RootIndex(3);
        assert_eq!(TableKind::First(root).iova(), IovaPage(0xc_0000));
        let leaf = root.leaf(511);
        assert_eq!(TableKind::Leaf(leaf).iova(), IovaPage(0xf_fe00));
        assert_eq!(leaf.granule(511), Granule(0x3_ffff));
        assert_eq!(RootIndex(0).leaf(1).granule(4), Granule(129));
    }
}
