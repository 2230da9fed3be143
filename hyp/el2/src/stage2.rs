//! Stage 2: the guest's CPUs' view of guest-physical memory, in the architecture's own tables, 4
//! KiB granule.
//!
//! Pure: which entry changes, and in which order with barriers and TLB invalidation, is decided
//! here over the [`Hardware`] trait, so a host test can watch every step. Identity at first, in the
//! largest blocks that fit; a block is split when a page of it is to move. Tables are never freed
//! and never merged, so a CPU that faults may walk them without a lock.
//!
//! Geometry: translation starts at level 1 (1 GiB an entry) for every IPA size from 32 to 40 bits;
//! above 39 bits two level-1 tables are concatenated. Source: Arm ARM DDI 0487, "The VMSAv8-64
//! address translation system", `VTCR_EL2`.
//!
//! Cacheability, decided: where the CPU has FEAT_S2FWB (the M1 does), guest RAM is forced to Normal
//! Write-Back whatever stage 1's attributes are. A guest that sees no `dma-coherent` maps its rings
//! Normal-NC; Oche copies pages through cacheable mappings, and forcing the attribute makes both
//! the same memory without any maintenance. Everything that is not RAM keeps stage 1's attributes.
//! Without FWB stage 2 is Normal Write-Back and the weaker of the two stages wins. No cache
//! maintenance goes with a copy, so Oche does not start on an Apple CPU without FWB
//! ([`cacheability`]). An emulated CPU has no caches, and Oche starts there.

pub mod cacheability;
pub mod entry;
pub mod hardware;
pub mod maintenance;
#[cfg(test)]
mod tests;
mod view;
pub mod walk;

use oche_engine::host::{CpuAccess, OutOfTables};
use oche_types::addr::{Gfn, Hfn};
use oche_types::range::{PAGE, PhysRange};

use entry::{Attributes, Entry};
pub use hardware::Hardware;
use maintenance::Maintenance as _;
pub use view::MAX_OPENED;
use view::View;
use walk::{LEAF_LEVEL, Position, index_of, level_bytes};
pub use walk::{Lookup, Root, TABLE_ENTRIES};

/// Widest guest-physical address, in bits: 1 TiB, where qemu-virt's highest device window ends.
pub const MAX_IPA_BITS: u32 = 40;

/// The tables and the memory for more of them. The holder of `&mut` is the only writer.
#[derive(Debug)]
pub struct Stage2<H> {
    root: Root,
    hardware: H,
    /// Host memory for further tables: zeroed, page aligned.
    free: PhysRange,
    /// Guest RAM is forced to Write-Back (FEAT_S2FWB, `HCR_EL2.FWB`).
    forces_write_back: bool,
    /// Guest-physical memory in which nothing is mapped as a block.
    by_page: PhysRange,
    /// A page has been broken since the last TLB invalidation.
    has_broken: bool,
    /// Tables of the view that one CPU may have.
    view: Option<View>,
}

impl<H: Hardware> Stage2<H> {
    /// Empty tables for `ipa_bits` of guest-physical address in `memory`, which the caller has
    /// zeroed and aligned to 8 KiB.
    ///
    /// # Errors
    ///
    /// [`OutOfTables`] when `memory` has no room for the first table.
    pub fn new(
        hardware: H,
        memory: PhysRange,
        ipa_bits: u32,
        forces_write_back: bool,
    ) -> Result<Self, OutOfTables> {
        let root = Root { table: memory.start, ipa_bits: ipa_bits.min(MAX_IPA_BITS) };
        let free =
            PhysRange { start: memory.start + Root::table_bytes(root.ipa_bits), end: memory.end };
        if free.start > free.end {
            return Err(OutOfTables);
        }
        let by_page = PhysRange::default();
        Ok(Self { root, hardware, free, forces_write_back, by_page, has_broken: false, view: None })
    }

    /// From now on maps `range` in pages alone. Call it before anything in there is mapped.
    pub fn require_pages(&mut self, range: PhysRange) {
        self.by_page = range;
    }

    /// What `VTTBR_EL2` and the fault handler need.
    pub fn root(&self) -> Root {
        self.root
    }

    /// Table pages that are left.
    pub fn free_tables(&self) -> u64 {
        self.free.size() / PAGE
    }

    /// Maps guest RAM at home, before the guest runs. Pages that are mapped already stay as they
    /// are.
    ///
    /// # Errors
    ///
    /// [`OutOfTables`] with part of the range mapped.
    pub fn map_ram(&mut self, range: PhysRange) -> Result<(), OutOfTables> {
        let attributes = Attributes::ram(self.forces_write_back, CpuAccess::ReadWrite);
        self.map(range.shrunk_to(PAGE), attributes)
    }

    /// Maps devices at home, before the guest runs, with stage 1's memory type.
    ///
    /// # Errors
    ///
    /// [`OutOfTables`] with part of the range mapped.
    pub fn map_devices(&mut self, range: PhysRange) -> Result<(), OutOfTables> {
        let attributes = Attributes::devices(self.forces_write_back);
        self.map(range.shrunk_to(PAGE), attributes)
    }

    /// As [`Self::map_devices`], without a block: for places with borders that only firmware knows.
    /// The M1's CPUs object to a block that crosses one (m1n1 `src/hv_vm.c`).
    ///
    /// # Errors
    ///
    /// As [`Self::map_devices`].
    pub fn map_devices_by_page(&mut self, range: PhysRange) -> Result<(), OutOfTables> {
        let range = range.shrunk_to(PAGE);
        let mut at = range.start;
        while at < range.end {
            self.map(
                PhysRange { start: at, end: at + PAGE },
                Attributes::devices(self.forces_write_back),
            )?;
            at += PAGE;
        }
        Ok(())
    }

    fn map(&mut self, range: PhysRange, attributes: Attributes) -> Result<(), OutOfTables> {
        let limit = 1u64 << self.root.ipa_bits;
        let mut at = range.start;
        while at < range.end.min(limit) {
            // Below 2^40, so the page number fits 32 bits.
            let page = Gfn((at >> 12) as u32);
            at += self.map_one(page, range.end.min(limit) - at, attributes)?;
        }
        self.hardware.order_stores();
        Ok(())
    }

    /// Maps the largest block at `page` that fits in `bytes`. Returns its size in bytes.
    fn map_one(
        &mut self,
        page: Gfn,
        bytes: u64,
        attributes: Attributes,
    ) -> Result<u64, OutOfTables> {
        let (mut table, mut level) = (self.root.table, 1);
        loop {
            let (index, size) = (index_of(page, level), level_bytes(level));
            let block = PhysRange { start: page.address(), end: page.address() + size };
            let may_be_block = level == LEAF_LEVEL || !block.overlaps(&self.by_page);
            let fits = page.address() & (size - 1) == 0 && bytes >= size && may_be_block;
            match Entry::decode(self.hardware.load(table, index), level) {
                Entry::Table(next) if level < LEAF_LEVEL => {
                    (table, level) = (next.address(), level + 1)
                }
                Entry::Invalid if fits => {
                    let leaf = Entry::Leaf { at: page.home(), attributes };
                    self.hardware.store(table, index, leaf.encode(level));
                    return Ok(size);
                }
                Entry::Invalid if level < LEAF_LEVEL => {
                    let next = self.take_table()?;
                    self.hardware.store(table, index, Entry::Table(next).encode(level));
                    (table, level) = (next.address(), level + 1);
                }
                // Mapped already: go on behind it.
                _ => return Ok(size - (page.address() & (size - 1))),
            }
        }
    }

    fn take_table(&mut self) -> Result<Hfn, OutOfTables> {
        if self.free.size() < PAGE {
            return Err(OutOfTables);
        }
        let table = Hfn((self.free.start >> 12) as u32);
        self.free.start += PAGE;
        Ok(table)
    }

    /// Begins a view in which nothing differs. Returns its root's host-physical address, or `None`
    /// where there is no memory for its tables, which are taken for good when the first one begins.
    pub fn begin_view(&mut self) -> Option<u64> {
        let view = match &mut self.view {
            Some(view) => view,
            none => none.insert(View::new(&mut self.free, self.root.ipa_bits)?),
        };
        Some(view.begin(&self.hardware, self.root))
    }

    /// Opens `page`, which the shared tables map by an entry of its own, at `at` in the view.
    /// False: there is no room, or no such page.
    #[must_use]
    pub fn open_in_view(&mut self, page: Gfn, at: Hfn) -> bool {
        let attributes = Attributes::ram(self.forces_write_back, CpuAccess::ReadWrite);
        let view =
            self.view.as_mut().expect("invariant: a page is opened in a view that has begun");
        view.open(&self.hardware, page, at, attributes)
    }

    /// Replaces the block at `position` by a table that maps the same, break-before-make.
    fn split(
        &mut self,
        position: &Position,
        at: Hfn,
        attributes: Attributes,
    ) -> Result<(), OutOfTables> {
        let table = self.take_table()?;
        let step = level_bytes(position.level + 1) >> 12;
        for index in 0..TABLE_ENTRIES {
            let part = Entry::Leaf { at: Hfn(at.0 + index as u32 * step as u32), attributes };
            self.hardware.store(table.address(), index, part.encode(position.level + 1));
        }
        self.hardware.store(position.table, position.index, Entry::Broken.encode(position.level));
        self.hardware.order_stores();
        // Any page of the block names it: its home is where it is mapped.
        self.hardware.invalidate_page(Gfn(at.0));
        self.hardware.finish_invalidation();
        self.hardware.store(
            position.table,
            position.index,
            Entry::Table(table).encode(position.level),
        );
        self.hardware.order_stores();
        Ok(())
    }

    /// The prepared leaf of `page`.
    fn leaf(&self, page: Gfn) -> Position {
        let position =
            self.root.walk(&self.hardware, page).filter(|position| position.level == LEAF_LEVEL);
        position.expect("a page is prepared before it is broken or made")
    }
}

impl<H: Hardware> oche_engine::host::Stage2 for Stage2<H> {
    /// Also refused, with the same error, for a page that was never mapped: it is not the guest's.
    fn prepare(&mut self, page: Gfn) -> Result<(), OutOfTables> {
        loop {
            let position = self.root.walk(&self.hardware, page).ok_or(OutOfTables)?;
            match position.entry {
                Entry::Leaf { .. } | Entry::Broken if position.level == LEAF_LEVEL => {
                    return Ok(());
                }
                Entry::Leaf { at, attributes } => self.split(&position, at, attributes)?,
                _ => return Err(OutOfTables),
            }
        }
    }

    fn break_page(&mut self, page: Gfn) {
        let position = self.leaf(page);
        self.hardware.store(position.table, position.index, Entry::Broken.encode(LEAF_LEVEL));
        self.has_broken = true;
    }

    fn flush_tlb(&mut self) {
        // The invalid entries must be seen by walks before the TLBs drop the valid ones.
        self.hardware.order_stores();
        if self.has_broken {
            // Not page by page: what combines both stages is found by VA, which is not known, so
            // all of it goes in any case. One broadcast that drops stage 2 as well replaces one for
            // each page and the one for stage 1.
            self.hardware.invalidate_all();
            self.has_broken = false;
        }
    }

    fn remap_page(&mut self, page: Gfn, at: Hfn, access: CpuAccess) {
        let position = self.leaf(page);
        // No fetch until the instruction caches are invalidated: at this host page they may still
        // hold what an earlier tenant executed. Few pages that move are ever executed; those fault
        // once.
        let attributes =
            Attributes { no_execute: true, ..Attributes::ram(self.forces_write_back, access) };
        // The bytes that were copied to `at` come before the entry that shows them.
        self.hardware.order_stores();
        self.hardware.store(
            position.table,
            position.index,
            Entry::Leaf { at, attributes }.encode(LEAF_LEVEL),
        );
    }

    fn publish(&mut self) {
        self.hardware.publish_stores();
    }
}
