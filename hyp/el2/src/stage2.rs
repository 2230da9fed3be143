//! Stage 2: the translation of guest-physical addresses for the guest's CPUs, with a 4 KiB granule.
//!
//! This module decides which entries change, and in which order with barriers and TLB
//! invalidations, and uses the [`Hardware`] trait for the rest, so that host tests observe every
//! step. The mapping begins as the identity, in the largest blocks that fit. A block is split when
//! a page in it is to move. Tables are never freed and never merged, so a CPU that faults may walk
//! them without a lock.
//!
//! Geometry: translation starts at level 1 (1 GiB an entry) for every IPA size from 32 to 40 bits;
//! above 39 bits two level-1 tables are concatenated. Source: Arm ARM DDI 0487, "The VMSAv8-64
//! address translation system", `VTCR_EL2`.
//!
//! Cacheability: if the CPU has FEAT_S2FWB, as the M1 has, guest RAM is forced to Normal Write-Back
//! whatever stage 1's attributes are. A guest that finds no `dma-coherent` property maps its rings
//! Normal Non-cacheable. Oche copies pages through cacheable mappings, and forcing the attribute
//! makes both coherent without maintenance. Everything that is not RAM keeps stage 1's attributes.
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

/// The tables, and the memory for more of them. The holder of `&mut` is the only writer.
#[derive(Debug)]
pub struct Stage2<H> {
    root: Root,
    hardware: H,
    /// Host memory for further tables: zeroed, page aligned.
    free: PhysRange,
    /// Whether guest RAM is forced to Write-Back (FEAT_S2FWB, `HCR_EL2.FWB`).
    forces_write_back: bool,
    /// Guest-physical memory that is mapped in pages only, not in blocks.
    by_page: PhysRange,
    /// Whether a page that CPUs could access was broken since the last TLB invalidation.
    has_broken: bool,
    /// The tables of the view.
    view: Option<View>,
}

impl<H: Hardware> Stage2<H> {
    /// Empty tables for `ipa_bits` of guest-physical address in `memory`, which the caller has
    /// zeroed and aligned to 8 KiB.
    ///
    /// # Errors
    ///
    /// [`OutOfTables`] if `memory` has no room for the first table.
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

    /// Makes `range` be mapped in pages only. Call it before anything in the range is mapped.
    pub fn require_pages(&mut self, range: PhysRange) {
        self.by_page = range;
    }

    /// What `VTTBR_EL2` and the fault handler need.
    pub fn root(&self) -> Root {
        self.root
    }

    /// Number of free table pages.
    pub fn free_tables(&self) -> u64 {
        self.free.size() / PAGE
    }

    /// Maps guest RAM at home, before the guest runs. Skips pages that are already mapped.
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

    /// As [`Self::map_devices`], in pages only: for ranges with boundaries that only firmware
    /// knows. The M1's CPUs do not accept a block that crosses one (m1n1 `src/hv_vm.c`).
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
                // It is mapped already: continue after it.
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

    /// Resets the view, so that it maps what the shared tables map. Returns the host-physical
    /// address of its root, or `None` if there is no memory for its tables, which are allocated for
    /// good at the first call.
    pub fn begin_view(&mut self) -> Option<u64> {
        let view = match &mut self.view {
            Some(view) => view,
            none => none.insert(View::new(&mut self.free, self.root.ipa_bits)?),
        };
        Some(view.begin(&self.hardware, self.root))
    }

    /// Opens `page`, which has an entry of its own in the shared tables, in the view, at `at`.
    /// Returns false if there is no room or no such page.
    #[must_use]
    pub fn open_in_view(&mut self, page: Gfn, at: Hfn) -> bool {
        let attributes = Attributes::ram(self.forces_write_back, CpuAccess::ReadWrite);
        let view =
            self.view.as_mut().expect("invariant: a page is opened in a view that has begun");
        view.open(&self.hardware, page, at, attributes)
    }

    /// Replaces the block at `position` by a table that maps the same pages, break-before-make.
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
        // A block maps its pages at home, so any page gives its address.
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

    /// The position of the entry of `page`, which is prepared.
    fn leaf(&self, page: Gfn) -> Position {
        let position =
            self.root.walk(&self.hardware, page).filter(|position| position.level == LEAF_LEVEL);
        position.expect("a page is prepared before it is broken or remapped")
    }
}

#[expect(unsafe_code, reason = "what CPUs reach rests on this module")]
// SAFETY: a page is broken before it is remapped elsewhere, and `flush_tlb` returns after a
// TLBI of all its CPUs has completed, as the break-before-make checker tests.
unsafe impl<H: Hardware> oche_engine::host::Stage2 for Stage2<H> {
    /// Also returns the error for a page that was never mapped, which is not the guest's.
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
        // No TLB holds an invalid entry, and that of a page without access is invalid since a break
        // that was completed.
        self.has_broken |= position.entry.allows_access();
    }

    fn flush_tlb(&mut self) {
        // Walks must see the invalid entries before the TLBs drop the valid ones.
        self.hardware.order_stores();
        if self.has_broken {
            // Not page by page: TLB entries that combine both stages are found by VA, which is not
            // known, so all of them must be dropped anyway. One TLBI that drops stage 2 as well
            // replaces one for each page and the one for stage 1.
            self.hardware.invalidate_all();
            self.has_broken = false;
        }
    }

    fn remap_page(&mut self, page: Gfn, at: Hfn, access: CpuAccess) {
        let position = self.leaf(page);
        // No fetch until the instruction caches are invalidated: they may still hold what was
        // executed in this host page before. Few pages that move are ever executed; those fault
        // once.
        let attributes =
            Attributes { no_execute: true, ..Attributes::ram(self.forces_write_back, access) };
        // The bytes that were copied to `at` must be visible before the entry.
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
