//! Walks of stage 2, by any CPU at any time and without a lock.

use oche_engine::host::CpuAccess;
use oche_types::addr::{Gfn, Hfn};
use oche_types::range::{PAGE, PhysRange};

use super::entry::{Attributes, Entry};
use super::hardware::Hardware;
use super::maintenance::Maintenance as _;

/// Entries in a table of 4 KiB.
pub const TABLE_ENTRIES: usize = 512;
/// Bytes that a level-1 entry covers.
const LEVEL1_BYTES: u64 = 1 << 30;
/// The level whose entries are pages.
pub(super) const LEAF_LEVEL: u8 = 3;

/// The root of the tables, which is enough to walk them.
#[derive(Clone, Copy, Debug)]
pub struct Root {
    /// Host-physical address of the level-1 table.
    pub table: u64,
    /// Guest-physical addresses have this many bits, 32 to 40.
    pub ipa_bits: u32,
}

/// The result of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Nothing is mapped.
    Unmapped,
    /// The page is broken, or its block is being split: retry.
    Broken,
    /// A leaf.
    Mapped {
        /// The host page.
        at: Hfn,
        /// What CPUs may do.
        access: CpuAccess,
        /// Whether fetches fault, because the page has moved since its instructions were last
        /// synchronized.
        no_execute: bool,
    },
}

/// The entry at which a walk ended.
pub(super) struct Position {
    pub(super) table: u64,
    pub(super) index: usize,
    pub(super) level: u8,
    pub(super) entry: Entry,
}

impl Root {
    /// Bytes that the level-1 table takes, and its alignment: one or two pages.
    pub fn table_bytes(ipa_bits: u32) -> u64 {
        if ipa_bits > 39 { 2 * PAGE } else { PAGE }
    }

    /// Looks `page` up as a CPU would. Needs no lock.
    pub fn lookup<H: Hardware>(&self, hardware: &H, page: Gfn) -> Lookup {
        let Some(position) = self.walk(hardware, page) else {
            return Lookup::Unmapped;
        };
        match position.entry {
            Entry::Invalid | Entry::Table(_) => Lookup::Unmapped,
            Entry::Broken => Lookup::Broken,
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

    /// Synchronizes the instructions of `page` and then lets CPUs execute it. `cpu` is the number
    /// of this CPU, below [`MAX_CPUS`](oche_types::MAX_CPUS). Interrupts must be masked.
    ///
    /// It needs no lock and does not wait: if the entry changes meanwhile, or another CPU is doing
    /// the same, the CPU returns to the guest and faults again.
    ///
    /// An unchanged entry does not mean an unchanged page: the page may have moved away and back,
    /// with other bytes (ABA). The CPU therefore first stores its own mark into the entry, which
    /// nothing else ever stores. If the exchange at the end still finds the mark, the page has not
    /// been broken since, and its instructions are synchronized. A CPU that breaks a marked page
    /// overwrites the mark and does not wait.
    ///
    /// A CPU that finds another CPU's mark leaves it: CPUs that replaced each other's marks might
    /// never make progress. A mark never stays behind, because its CPU returns only after the
    /// exchange, which fails only if the mark is gone.
    pub fn allow_execute<H: Hardware>(&self, hardware: &H, page: Gfn, cpu: usize) {
        let Some(Position { table, index, level: LEAF_LEVEL, entry }) = self.walk(hardware, page)
        else {
            return;
        };
        let Entry::Leaf { at, attributes } = entry else { return };
        // A trapped page is never executable, and its entry has no room for a mark.
        if !attributes.no_execute || attributes.access == CpuAccess::None {
            return;
        }
        let marked = entry.encode_marked(cpu);
        if !hardware.exchange(table, index, entry.encode(LEAF_LEVEL), marked) {
            return;
        }
        let code = PhysRange { start: at.address(), end: at.address() + PAGE };
        hardware.synchronize_instructions(code);
        let new = Entry::Leaf { at, attributes: Attributes { no_execute: false, ..attributes } };
        if hardware.exchange(table, index, marked, new.encode(LEAF_LEVEL)) {
            // Relaxing a permission needs no break-before-make, but a stale TLB entry would fault
            // forever.
            hardware.order_stores();
            hardware.invalidate_page(page);
            hardware.finish_invalidation();
        }
    }

    /// Walks to the last entry for `page`: a leaf, or anything else that is not a table.
    pub(super) fn walk<H: Hardware>(&self, hardware: &H, page: Gfn) -> Option<Position> {
        if page.address() >> self.ipa_bits != 0 {
            return None;
        }
        let (mut table, mut level) = (self.table, 1);
        loop {
            let index = index_of(page, level);
            let entry = Entry::decode(hardware.load(table, index), level);
            match entry {
                Entry::Table(next) if level < LEAF_LEVEL => {
                    (table, level) = (next.address(), level + 1)
                }
                _ => return Some(Position { table, index, level, entry }),
            }
        }
    }
}

/// Bytes that an entry of `level` (1 to 3) covers.
pub(super) fn level_bytes(level: u8) -> u64 {
    LEVEL1_BYTES >> (9 * u32::from(level.clamp(1, LEAF_LEVEL) - 1))
}

/// The index of `page` in a table of `level`. The root may have 1024 entries, the others have 512.
pub(super) fn index_of(page: Gfn, level: u8) -> usize {
    let index = page.address() / level_bytes(level);
    if level == 1 { index as usize } else { index as usize % TABLE_ENTRIES }
}
