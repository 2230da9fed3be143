//! A view of stage 2 for one CPU during one step: it maps what the shared tables map, but some
//! trapped pages are open.
//!
//! The view has its own tables on the path to each open page and shares all others. One CPU uses
//! it, with a VMID of its own and under the engine's lock, to execute one instruction. The other
//! CPUs continue to use the shared tables, which do not change. Therefore no break-before-make and
//! no TLBI of other CPUs is needed: the CPU invalidates the entries of that VMID when it leaves the
//! view.

use oche_types::addr::{Gfn, Hfn};
use oche_types::range::{PAGE, PhysRange};

use super::entry::{Attributes, Entry};
use super::hardware::Hardware;
use super::walk::{LEAF_LEVEL, Root, TABLE_ENTRIES, index_of};

/// Most pages that can be open for one stepped instruction. A pair, a SIMD structure or an atomic
/// accesses two at most. An SVE gather can access more; then the engine drops bounce pages.
pub const MAX_OPENED: usize = 4;

/// The view's tables: a root, and a table of levels 2 and 3 for each page that can be open at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    root: u64,
    tables: PhysRange,
    used: u64,
}

impl View {
    /// Allocates the view's tables at the start of `free`. `None` if there is too little memory.
    pub(super) fn new(free: &mut PhysRange, ipa_bits: u32) -> Option<Self> {
        let root_bytes = Root::table_bytes(ipa_bits);
        let root = free.start.next_multiple_of(root_bytes);
        let start = root + root_bytes;
        let end = start + 2 * MAX_OPENED as u64 * PAGE;
        if end > free.end {
            return None;
        }
        free.start = end;
        Some(Self { root, tables: PhysRange { start, end }, used: 0 })
    }

    /// Makes the view equal to the tables of `shared`. Returns its root's host-physical address.
    pub(super) fn begin(&mut self, hardware: &impl Hardware, shared: Root) -> u64 {
        self.used = 0;
        let entries = (Root::table_bytes(shared.ipa_bits) / 8) as usize;
        copy_table(hardware, shared.table, self.root, entries);
        self.root
    }

    /// Maps `page`, which has an entry of its own in the shared tables, at `at` with `attributes`.
    /// Returns false if there is no room or no such page.
    #[must_use]
    pub(super) fn open(
        &mut self,
        hardware: &impl Hardware,
        page: Gfn,
        at: Hfn,
        attributes: Attributes,
    ) -> bool {
        let mut table = self.root;
        for level in 1..LEAF_LEVEL {
            let index = index_of(page, level);
            let Entry::Table(next) = Entry::decode(hardware.load(table, index), level) else {
                return false;
            };
            let is_own = (self.tables.start..self.tables.end).contains(&next.address());
            table = if is_own {
                next.address()
            } else {
                let own = self.tables.start + self.used * PAGE;
                if own >= self.tables.end {
                    return false;
                }
                self.used += 1;
                copy_table(hardware, next.address(), own, TABLE_ENTRIES);
                hardware.store(table, index, Entry::Table(Hfn((own >> 12) as u32)).encode(level));
                own
            };
        }
        let index = index_of(page, LEAF_LEVEL);
        let Entry::Leaf { attributes: shared, .. } =
            Entry::decode(hardware.load(table, index), LEAF_LEVEL)
        else {
            return false;
        };
        // Fetches stay allowed if they were: the stepped instruction may be in the page that it
        // accesses.
        let attributes = Attributes { no_execute: shared.no_execute, ..attributes };
        hardware.store(table, index, Entry::Leaf { at, attributes }.encode(LEAF_LEVEL));
        true
    }
}

fn copy_table(hardware: &impl Hardware, from: u64, to: u64, entries: usize) {
    for index in 0..entries {
        hardware.store(to, index, hardware.load(from, index));
    }
}
