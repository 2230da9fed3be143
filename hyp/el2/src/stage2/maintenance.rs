//! The sequences of barriers, TLB and cache maintenance that stage 2 is made of, over any
//! [`Hardware`].
//!
//! None has an ISB. EL2 itself neither translates by these tables nor executes these instructions,
//! and an exception return synchronises the context of the guest that does.
//!
//! Source: Arm ARM DDI 0487, "Using break-before-make when updating translation table entries",
//! "TLB maintenance requirements and the TLB maintenance instructions", "Synchronization and
//! coherency issues between data and instruction accesses".

use oche_types::addr::Gfn;
use oche_types::range::PhysRange;

use super::hardware::{Barrier, Hardware, Translations};

/// `VTTBR_EL2.VMID` of a view; the guest's own is 0.
pub const VIEW_VMID: u64 = 1 << 48;

/// The sequences. Every [`Hardware`] has them, and none has its own.
pub trait Maintenance: Hardware {
    /// All stores before are seen by every CPU and its table walks before any store after.
    ///
    /// DSB, not DMB: a walk is not an explicit access.
    fn order_stores(&self) {
        self.barrier(Barrier::Stores);
    }

    /// The same for observers outside the CPUs' domain as well: an IOMMU and the devices behind it.
    fn publish_stores(&self) {
        self.barrier(Barrier::StoresForAll);
    }

    /// Starts to drop what the TLBs of all CPUs hold of stage 2 alone of the page, last-level or
    /// not.
    fn invalidate_page(&self, page: Gfn) {
        self.invalidate(Translations::Page(page));
    }

    /// Waits for the invalidations, drops everything that combines them with stage 1, and waits
    /// again.
    ///
    /// Entries that combine both stages are found by virtual address, which is not known, so all of
    /// them go.
    fn finish_invalidation(&self) {
        self.barrier(Barrier::Everything);
        self.invalidate(Translations::FirstStage);
        self.barrier(Barrier::Everything);
    }

    /// Drops all that the TLBs of all CPUs hold of the guest, of both stages and combined, and
    /// waits.
    fn invalidate_all(&self) {
        self.invalidate(Translations::All);
        self.barrier(Barrier::Everything);
    }

    /// Has this CPU's guest use the view whose root is at `root`, with all that was stored into it.
    /// A context synchronisation must follow.
    fn enter_view(&self, root: u64) {
        self.order_stores();
        self.select_tables(root | VIEW_VMID);
    }

    /// Drops what this CPU cached of the view, and goes back to the tables at `root`. No other
    /// CPU had any of it.
    fn leave_view(&self, root: u64) {
        self.invalidate(Translations::AllHere);
        self.barrier(Barrier::Here);
        self.select_tables(root);
    }

    /// Makes instructions that were written as data to `range` visible to the fetches of every CPU.
    /// All of the instruction caches are invalidated, because the guest fetches by other addresses.
    /// What the caches keep coherent by themselves is left out.
    fn synchronize_instructions(&self, range: PhysRange) {
        // Cache maintenance waits neither for another CPU's stores that this one has only seen nor,
        // where nothing has to be cleaned (`CTR_EL0.IDC`), for its own: a DSB does.
        self.order_stores();
        let fetch = self.instruction_fetch();
        if fetch.needs_clean {
            let bytes = self.data_line_bytes();
            let mut line = range.start & !(bytes - 1);
            while line < range.end {
                self.clean_line(line);
                line += bytes;
            }
            self.barrier(Barrier::Everything);
        }
        if fetch.needs_invalidation {
            self.drop_instructions();
            self.barrier(Barrier::Everything);
        }
    }
}

impl<H: Hardware + ?Sized> Maintenance for H {}
