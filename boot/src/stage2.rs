//! Stage 2: the guest's CPUs' view of guest-physical memory, in the architecture's own tables, 4 KiB granule.
//!
//! Pure: which entry changes, and in which order with barriers and TLB invalidation, is decided here over the
//! [`Hardware`] trait, so a host test can watch every step. Identity at first, in the largest blocks that
//! fit; a block is split when a page of it is to move. Tables are never freed and never merged, so a CPU
//! that faults may walk them without a lock.
//!
//! Geometry: translation starts at level 1 (1 GiB an entry) for every IPA size from 32 to 40 bits; above 39
//! bits two level-1 tables are concatenated. Source: Arm ARM DDI 0487, "The VMSAv8-64 address translation
//! system", `VTCR_EL2`.
//!
//! Cacheability, decided: where the CPU has FEAT_S2FWB (the M1 does), guest RAM is forced to Normal
//! Write-Back whatever stage 1 says. A guest that sees no `dma-coherent` maps its rings Normal-NC; Oche
//! copies pages through cacheable mappings, and forcing the attribute makes both the same memory without any
//! maintenance. Everything that is not RAM keeps stage 1's attributes. Without FWB stage 2 says Normal
//! Write-Back and the weaker of the two stages wins; then whoever copies a page cleans and invalidates it
//! to the point of coherency (`bare::cache`).

pub mod entry;
#[cfg(test)]
mod tests;

use oche_hyp::addr::{Gfn, Hfn};
use oche_hyp::world::{CpuAccess, OutOfTables};

use crate::range::{PAGE, PhysRange};
use entry::{Attributes, Entry};

/// Entries in a table of 4 KiB.
pub const TABLE_ENTRIES: usize = 512;
/// Widest guest-physical address, in bits: 1 TiB, where qemu-virt's highest device window ends.
pub const MOST_IPA_BITS: u32 = 40;
/// Pages that [`Stage2::flush_broken`] invalidates one by one; a larger batch drops everything at once.
pub const FLUSH_BATCH: usize = 64;
/// Bytes that a level-1 entry covers.
const LEVEL1_BYTES: u64 = 1 << 30;
const LEAF_LEVEL: u8 = 3;

/// Memory of the tables, barriers and the TLBs.
///
/// `load` and `store` are single-copy atomic; other CPUs and table walkers read at any time.
pub trait Hardware {
    /// Entry `index` of the table (of 512 entries, or 1024 for the root) at host-physical `table`.
    fn load(&self, table: u64, index: usize) -> u64;
    /// Stores the entry.
    fn store(&self, table: u64, index: usize, value: u64);
    /// Stores `new` if the entry still is `old`; says whether it was.
    fn exchange(&self, table: u64, index: usize, old: u64, new: u64) -> bool;
    /// All stores before are seen by every table walk and every observer before any store after.
    fn order_stores(&self);
    /// Starts to drop what the TLBs of all CPUs hold of the guest-physical page, last-level or not.
    fn invalidate_page(&self, page: Gfn);
    /// Starts to drop all that the TLBs of all CPUs hold of the guest, both stages.
    fn invalidate_all(&self);
    /// Waits for the invalidations, drops everything that combines them with stage 1, and waits again.
    fn finish_invalidation(&self);
    /// Makes the instruction caches of all CPUs see the data at host page `at`.
    fn synchronize_instructions(&self, at: Hfn);
}

/// Where the tables are; enough to walk them. Copy it to where faults are handled.
#[derive(Clone, Copy, Debug)]
pub struct Root {
    /// Host-physical address of the level-1 table.
    pub table: u64,
    /// Guest-physical addresses have this many bits, 32 to 40.
    pub ipa_bits: u32,
}

/// What a walk finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Nothing is there, and nothing will be.
    Unmapped,
    /// The page is being moved or its block split: try again.
    InMotion,
    /// A leaf.
    Mapped {
        /// The host page.
        at: Hfn,
        /// What CPUs may do.
        access: CpuAccess,
        /// Fetches fault, because the page has moved since instructions were last synchronised.
        no_execute: bool,
    },
}

/// How far a walk came.
struct Position {
    table: u64,
    index: usize,
    level: u8,
    entry: Entry,
}

impl Root {
    /// Bytes that the level-1 table takes, and its alignment: one or two pages.
    pub fn table_bytes(ipa_bits: u32) -> u64 {
        if ipa_bits > 39 { 2 * PAGE } else { PAGE }
    }

    /// What is at `page`, as a CPU would find it. Needs no lock.
    pub fn lookup<H: Hardware>(&self, hardware: &H, page: Gfn) -> Lookup {
        let Some(position) = self.walk(hardware, page) else {
            return Lookup::Unmapped;
        };
        match position.entry {
            Entry::Invalid | Entry::Table(_) => Lookup::Unmapped,
            Entry::InMotion => Lookup::InMotion,
            Entry::Leaf { at, attributes } => {
                let inside = (page.address() & (level_bytes(position.level) - 1)) >> 12;
                Lookup::Mapped {
                    at: Hfn(at.0 | inside as u32),
                    access: attributes.access,
                    no_execute: attributes.no_execute,
                }
            }
        }
    }

    /// Lets CPUs execute `page`, after its instructions are synchronised. Needs no lock: an entry that
    /// changed meanwhile stays as it is, and the CPU faults again.
    pub fn allow_execute<H: Hardware>(&self, hardware: &H, page: Gfn) {
        let Some(position) = self.walk(hardware, page) else { return };
        let Entry::Leaf { at, attributes } = position.entry else { return };
        hardware.synchronize_instructions(at);
        let new = Entry::Leaf { at, attributes: Attributes { no_execute: false, ..attributes } };
        let (old, new) = (position.entry.encode(position.level), new.encode(position.level));
        if hardware.exchange(position.table, position.index, old, new) {
            // Relaxing a permission needs no break-before-make, but a stale entry would fault for ever.
            hardware.order_stores();
            hardware.invalidate_page(page);
            hardware.finish_invalidation();
        }
    }

    /// Walks to the entry that decides about `page`: a leaf, or something that is not a table.
    fn walk<H: Hardware>(&self, hardware: &H, page: Gfn) -> Option<Position> {
        if page.address() >> self.ipa_bits != 0 {
            return None;
        }
        let (mut table, mut level) = (self.table, 1);
        loop {
            let index = index_of(page, level);
            let entry = Entry::decode(hardware.load(table, index), level);
            match entry {
                Entry::Table(next) if level < LEAF_LEVEL => (table, level) = (next.address(), level + 1),
                _ => return Some(Position { table, index, level, entry }),
            }
        }
    }
}

/// The tables and the memory for more of them. Whoever holds `&mut` is the only writer.
#[derive(Debug)]
pub struct Stage2<H> {
    root: Root,
    hardware: H,
    /// Host memory for further tables: zeroed, page aligned.
    free: PhysRange,
    /// Guest RAM is forced to Write-Back (FEAT_S2FWB, `HCR_EL2.FWB`).
    forces_write_back: bool,
    broken: [Gfn; FLUSH_BATCH],
    broken_count: usize,
}

impl<H: Hardware> Stage2<H> {
    /// Empty tables for `ipa_bits` of guest-physical address in `memory`, which the caller has zeroed and
    /// aligned to 8 KiB.
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
        let root = Root { table: memory.start, ipa_bits: ipa_bits.min(MOST_IPA_BITS) };
        let free = PhysRange { start: memory.start + Root::table_bytes(root.ipa_bits), end: memory.end };
        if free.start > free.end {
            return Err(OutOfTables);
        }
        Ok(Self { root, hardware, free, forces_write_back, broken: [Gfn(0); FLUSH_BATCH], broken_count: 0 })
    }

    /// What `VTTBR_EL2` and the fault handler need.
    pub fn root(&self) -> Root {
        self.root
    }

    /// Table pages that are left.
    pub fn free_tables(&self) -> u64 {
        self.free.size() / PAGE
    }

    /// Maps guest RAM at home, before the guest runs. Pages that are mapped already stay as they are.
    ///
    /// # Errors
    ///
    /// [`OutOfTables`] with part of the range mapped.
    pub fn map_ram(&mut self, range: PhysRange) -> Result<(), OutOfTables> {
        let attributes = Attributes::ram(self.forces_write_back, CpuAccess::ReadWrite);
        self.map(range.shrunk_to(PAGE), attributes)
    }

    /// Maps devices at home, before the guest runs, with the memory type that stage 1 says.
    ///
    /// # Errors
    ///
    /// [`OutOfTables`] with part of the range mapped.
    pub fn map_devices(&mut self, range: PhysRange) -> Result<(), OutOfTables> {
        let attributes = Attributes::devices(self.forces_write_back);
        self.map(range.shrunk_to(PAGE), attributes)
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
    fn map_one(&mut self, page: Gfn, bytes: u64, attributes: Attributes) -> Result<u64, OutOfTables> {
        let (mut table, mut level) = (self.root.table, 1);
        loop {
            let (index, size) = (index_of(page, level), level_bytes(level));
            let fits = page.address() & (size - 1) == 0 && bytes >= size;
            match Entry::decode(self.hardware.load(table, index), level) {
                Entry::Table(next) if level < LEAF_LEVEL => (table, level) = (next.address(), level + 1),
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

    /// Replaces the block at `position` by a table that says the same, break-before-make.
    fn split(&mut self, position: &Position, at: Hfn, attributes: Attributes) -> Result<(), OutOfTables> {
        let table = self.take_table()?;
        let step = level_bytes(position.level + 1) >> 12;
        for index in 0..TABLE_ENTRIES {
            let part = Entry::Leaf { at: Hfn(at.0 + index as u32 * step as u32), attributes };
            self.hardware.store(table.address(), index, part.encode(position.level + 1));
        }
        self.hardware.store(position.table, position.index, Entry::InMotion.encode(position.level));
        self.hardware.order_stores();
        // Any page of the block names it: its home is where it is mapped.
        self.hardware.invalidate_page(Gfn(at.0));
        self.hardware.finish_invalidation();
        self.hardware.store(position.table, position.index, Entry::Table(table).encode(position.level));
        self.hardware.order_stores();
        Ok(())
    }

    /// The prepared leaf of `page`.
    fn leaf(&self, page: Gfn) -> Position {
        let position = self.root.walk(&self.hardware, page).filter(|position| position.level == LEAF_LEVEL);
        position.expect("a page is prepared before it is broken or made")
    }
}

impl<H: Hardware> oche_hyp::world::Stage2 for Stage2<H> {
    /// Also refused, with the same error, for a page that was never mapped: it is not the guest's.
    fn prepare(&mut self, page: Gfn) -> Result<(), OutOfTables> {
        loop {
            let position = self.root.walk(&self.hardware, page).ok_or(OutOfTables)?;
            match position.entry {
                Entry::Leaf { .. } | Entry::InMotion if position.level == LEAF_LEVEL => return Ok(()),
                Entry::Leaf { at, attributes } => self.split(&position, at, attributes)?,
                _ => return Err(OutOfTables),
            }
        }
    }

    fn break_page(&mut self, page: Gfn) {
        let position = self.leaf(page);
        self.hardware.store(position.table, position.index, Entry::InMotion.encode(LEAF_LEVEL));
        if let Some(slot) = self.broken.get_mut(self.broken_count) {
            *slot = page;
        }
        self.broken_count = self.broken_count.saturating_add(1);
    }

    fn flush_broken(&mut self) {
        // The invalid entries must be seen by walks before the TLBs drop the valid ones.
        self.hardware.order_stores();
        match self.broken.get(..self.broken_count) {
            Some([]) => return,
            Some(pages) => pages.iter().for_each(|page| self.hardware.invalidate_page(*page)),
            None => self.hardware.invalidate_all(),
        }
        self.hardware.finish_invalidation();
        self.broken_count = 0;
    }

    fn make_page(&mut self, page: Gfn, at: Hfn, access: CpuAccess) {
        let position = self.leaf(page);
        // No fetch until the instruction caches have been told: at this host page they may still hold what
        // an earlier tenant executed. Few pages that move are ever executed; those fault once.
        let attributes = Attributes { no_execute: true, ..Attributes::ram(self.forces_write_back, access) };
        // The bytes that were copied to `at` come before the entry that shows them.
        self.hardware.order_stores();
        self.hardware.store(
            position.table,
            position.index,
            Entry::Leaf { at, attributes }.encode(LEAF_LEVEL),
        );
    }

    fn publish(&mut self) {
        self.hardware.order_stores();
    }
}

/// Bytes that an entry of `level` (1 to 3) covers.
fn level_bytes(level: u8) -> u64 {
    LEVEL1_BYTES >> (9 * u32::from(level.clamp(1, LEAF_LEVEL) - 1))
}

/// The index of `page` in a table of `level`. The root may have 1024 entries, the others have 512.
fn index_of(page: Gfn, level: u8) -> usize {
    let index = page.address() / level_bytes(level);
    if level == 1 { index as usize } else { index as usize % TABLE_ENTRIES }
}
