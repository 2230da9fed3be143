//! Shadow tables: a domain's two levels of 16 KiB tables, which the hardware IOMMU walks.
//!
//! A table has 2048 entries of eight bytes. An entry covers 32 MiB in the first level and 16 KiB in
//! a leaf table, as in a 16 KiB DART (Linux `io-pgtable-dart.c`) and in an SMMUv3 with a 16 KiB
//! granule and T0SZ 28. The bits of an entry depend on the hardware: see [`Iommu::leaf_entry`] and
//! [`Iommu::table_entry`].

use oche_types::addr::{Granule, HostGranule, PAGE_WORDS, SLOTS};
use oche_types::{Invariant, invariant};

use crate::host::{Iommu, Memory, Stage2};
use crate::pool::Pool;

/// Number of entries of one table.
const ENTRIES: usize = 2048;
/// Leaf tables of a domain: 32-bit IOVAs use the first 128 entries of the first level.
const LEAF_TABLES: usize = 128;
/// Frame number of a leaf table that does not exist.
const NO_TABLE: u32 = u32::MAX;

/// The tables of one domain.
#[derive(Debug)]
pub(crate) struct Shadow {
    root: HostGranule,
    tables: [LeafTable; LEAF_TABLES],
}

#[derive(Clone, Copy, Debug)]
struct LeafTable {
    frame: u32,
    /// Number of entries that are not zero.
    live: u16,
}

impl Shadow {
    /// Creates an empty first-level table. `None` if the pool is exhausted.
    pub(crate) fn new(memory: &mut impl Memory, pool: &mut Pool) -> Option<Self> {
        let root = pool.take_frame()?;
        clear(memory, root);
        Some(Self { root, tables: [LeafTable { frame: NO_TABLE, live: 0 }; LEAF_TABLES] })
    }

    /// The first-level table.
    pub(crate) fn root(&self) -> HostGranule {
        self.root
    }

    /// Makes sure that `granule` has a leaf table. Returns false if the pool is exhausted.
    #[must_use]
    pub(crate) fn prepare(
        &mut self,
        host: &mut (impl Memory + Stage2 + Iommu),
        pool: &mut Pool,
        granule: Granule,
    ) -> bool {
        let (first, _) = indices(granule);
        let table = self.tables.get_mut(first).must("an IOVA has 32 bits");
        if table.frame == NO_TABLE {
            let Some(frame) = pool.take_frame() else { return false };
            clear(host, frame);
            // Without this, an IOMMU could read the frame's old contents as entries.
            host.publish();
            *table = LeafTable { frame: frame.0, live: 0 };
            let entry = host.table_entry(frame);
            store(host, self.root, first, entry);
        }
        true
    }

    /// Stores the entry of `granule`, zero for none, and returns the entry before. For an entry
    /// that is not zero, the granule was prepared.
    pub(crate) fn set(&mut self, memory: &mut impl Memory, granule: Granule, entry: u64) -> u64 {
        let (first, leaf) = indices(granule);
        let table = self.tables.get_mut(first).must("an IOVA has 32 bits");
        if table.frame == NO_TABLE {
            // A granule that was refused because no table was free.
            invariant!(entry == 0, "a granule that has an entry has a leaf table");
            return 0;
        }
        let frame = HostGranule(table.frame);
        let before = load(memory, frame, leaf);
        if before != entry {
            table.live = table.live + u16::from(entry != 0) - u16::from(before != 0);
            store(memory, frame, leaf, entry);
        }
        before
    }

    /// Unlinks every leaf table without entries. Returns whether there was one. If so, an
    /// invalidation and [`Self::give_unlinked`] must follow.
    pub(crate) fn unlink_empty(&mut self, memory: &mut impl Memory) -> bool {
        let mut found = false;
        for (first, table) in self.tables.iter().enumerate() {
            if table.frame != NO_TABLE && table.live == 0 {
                store(memory, self.root, first, 0);
                found = true;
            }
        }
        found
    }

    /// Frees the tables that [`Self::unlink_empty`] unlinked. Returns how many were freed.
    pub(crate) fn give_unlinked(
        &mut self,
        host: &mut (impl Memory + Iommu),
        pool: &mut Pool,
    ) -> usize {
        let mut given = 0;
        for table in &mut self.tables {
            if table.frame != NO_TABLE && table.live == 0 {
                pool.give_frame(host, HostGranule(table.frame));
                table.frame = NO_TABLE;
                given += 1;
            }
        }
        given
    }

    /// Frees all tables. The hardware must have been invalidated since the last stream was
    /// detached.
    pub(crate) fn give_all(self, host: &mut (impl Memory + Iommu), pool: &mut Pool) {
        for table in self.tables.iter().filter(|table| table.frame != NO_TABLE) {
            pool.give_frame(host, HostGranule(table.frame));
        }
        pool.give_frame(host, self.root);
    }
}

fn indices(granule: Granule) -> (usize, usize) {
    let granule = granule.0 as usize;
    (granule / ENTRIES, granule % ENTRIES)
}

fn load(memory: &impl Memory, table: HostGranule, index: usize) -> u64 {
    memory.load(table.page(index / PAGE_WORDS), index % PAGE_WORDS)
}

fn store(memory: &mut impl Memory, table: HostGranule, index: usize, entry: u64) {
    memory.store(table.page(index / PAGE_WORDS), index % PAGE_WORDS, entry);
}

fn clear(memory: &mut impl Memory, table: HostGranule) {
    for slot in 0..SLOTS {
        memory.fill_page(table.page(slot), 0);
    }
}
