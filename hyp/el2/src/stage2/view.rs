//! A view of stage 2 for one CPU and a moment: as the shared tables, but with some trapped pages
//! open.
//!
//! The view has tables of its own on the path to each opened page and shares all others. It is used
//! under the engine's lock, with a VMID of its own, by one CPU that executes one instruction; the
//! other CPUs keep the shared tables, in which nothing changes. So no break-before-make is due, and
//! no broadcast: the CPU drops what it cached under that VMID when it leaves the view.

use oche_engine::host::CpuAccess;
use oche_types::addr::{Gfn, Hfn};
use oche_types::range::{PAGE, PhysRange};

use super::entry::{Attributes, Entry};
use super::hardware::Hardware;
use super::walk::{LEAF_LEVEL, Root, index_of};
use super::{Stage2, TABLE_ENTRIES};

/// Pages that one stepped instruction may have opened. A pair, a SIMD structure or an atomic
/// touches two at the most; a gather of SVE can touch more, and then the engine gives copies up.
pub const MAX_OPENED: usize = 4;

/// The view's tables: a root, and a table of levels 2 and 3 for each page that can be open at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    root: u64,
    tables: PhysRange,
    used: u64,
}

impl<H: Hardware> Stage2<H> {
    /// Begins a view in which nothing differs. Returns its root's host-physical address, or `None`
    /// where there is no memory for its tables.
    pub fn begin_view(&mut self) -> Option<u64> {
        let mut view = match self.view {
            Some(view) => view,
            None => self.take_view()?,
        };
        view.used = 0;
        self.view = Some(view);
        let entries = (Root::table_bytes(self.root.ipa_bits) / 8) as usize;
        self.copy_table(self.root.table, view.root, entries);
        Some(view.root)
    }

    /// Opens `page`, which the shared tables map by an entry of its own, at `at` in the view.
    /// False: there is no room, or no such page.
    #[must_use]
    pub fn open_in_view(&mut self, page: Gfn, at: Hfn) -> bool {
        let Some(mut view) = self.view else { return false };
        let mut table = view.root;
        for level in 1..LEAF_LEVEL {
            let index = index_of(page, level);
            let Entry::Table(next) = Entry::decode(self.hardware.load(table, index), level) else {
                return false;
            };
            let is_own = (view.tables.start..view.tables.end).contains(&next.address());
            table = if is_own {
                next.address()
            } else {
                let own = view.tables.start + view.used * PAGE;
                if own >= view.tables.end {
                    return false;
                }
                view.used += 1;
                self.copy_table(next.address(), own, TABLE_ENTRIES);
                self.hardware.store(
                    table,
                    index,
                    Entry::Table(Hfn((own >> 12) as u32)).encode(level),
                );
                own
            };
        }
        self.view = Some(view);
        let index = index_of(page, LEAF_LEVEL);
        let Entry::Leaf { attributes: shared, .. } =
            Entry::decode(self.hardware.load(table, index), LEAF_LEVEL)
        else {
            return false;
        };
        // Where fetches are allowed they stay so: the instruction that is stepped may lie in the
        // page that it touches.
        let attributes = Attributes {
            no_execute: shared.no_execute,
            ..Attributes::ram(self.forces_write_back, CpuAccess::ReadWrite)
        };
        self.hardware.store(table, index, Entry::Leaf { at, attributes }.encode(LEAF_LEVEL));
        true
    }

    /// Memory for the view's tables, taken for good when the first page is opened.
    fn take_view(&mut self) -> Option<View> {
        let root_bytes = Root::table_bytes(self.root.ipa_bits);
        let root = self.free.start.next_multiple_of(root_bytes);
        let start = root + root_bytes;
        let end = start + 2 * MAX_OPENED as u64 * PAGE;
        if end > self.free.end {
            return None;
        }
        self.free.start = end;
        Some(View { root, tables: PhysRange { start, end }, used: 0 })
    }

    fn copy_table(&self, from: u64, to: u64, entries: usize) {
        for index in 0..entries {
            self.hardware.store(to, index, self.hardware.load(from, index));
        }
    }
}
