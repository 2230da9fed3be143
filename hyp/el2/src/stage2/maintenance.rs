//! The sequences of barriers, TLB maintenance and cache maintenance that stage 2 uses, for any
//! [`Hardware`].
//!
//! None has an ISB. EL2 itself neither uses these tables nor executes these instructions, and the
//! exception return synchronizes the context for the guest, which does.
//!
//! Source: Arm ARM DDI 0487, "Using break-before-make when updating translation table entries",
//! "TLB maintenance requirements and the TLB maintenance instructions", "Synchronization and
//! coherency issues between data and instruction accesses".

use oche_types::addr::Gfn;
use oche_types::range::PhysRange;

use super::hardware::{Barrier, Hardware, Translations};

/// `VTTBR_EL2.VMID` of a view; the guest's own is 0.
pub const VIEW_VMID: u64 = 1 << 48;

/// The sequences, implemented for every [`Hardware`].
pub trait Maintenance: Hardware {
    /// Orders earlier stores before later ones, for every CPU and its table walks.
    ///
    /// DSB, not DMB: a walk is not an explicit access.
    fn order_stores(&self) {
        self.barrier(Barrier::Stores);
    }

    /// As the one before, for observers outside the CPUs' shareability domain as well: IOMMUs and
    /// devices.
    fn publish_stores(&self) {
        self.barrier(Barrier::StoresForAll);
    }

    /// Invalidates the stage-2 TLB entries of the page, of any level, on all CPUs. Does not wait.
    fn invalidate_page(&self, page: Gfn) {
        self.invalidate(Translations::Page(page));
    }

    /// Waits for the invalidations, invalidates all entries that combine both stages, and waits
    /// again.
    ///
    /// Entries that combine both stages are found by virtual address, which is not known, so all
    /// are invalidated.
    fn finish_invalidation(&self) {
        self.barrier(Barrier::Everything);
        self.invalidate(Translations::FirstStage);
        self.barrier(Barrier::Everything);
    }

    /// Invalidates all TLB entries of the guest on all CPUs, of both stages and combined, and
    /// waits.
    fn invalidate_all(&self) {
        self.invalidate(Translations::All);
        self.barrier(Barrier::Everything);
    }

    /// Makes this CPU use the view whose root is at `root` for the guest, with all that was stored
    /// into it. A context synchronization must follow.
    fn enter_view(&self, root: u64) {
        self.order_stores();
        self.select_tables(root | VIEW_VMID);
    }

    /// Invalidates the entries of the view on this CPU, which alone has any, and returns to the
    /// tables at `root`.
    fn leave_view(&self, root: u64) {
        self.invalidate(Translations::AllHere);
        self.barrier(Barrier::Here);
        self.select_tables(root);
    }

    /// Makes instructions that were written as data to `range` visible to the fetches of every CPU.
    /// The instruction caches are invalidated as a whole, because the guest fetches from other
    /// virtual addresses: by line, `IC IVAU` reaches them only where `CTR_EL0.L1Ip` is PIPT. It is
    /// VIPT on an M1, whose `CTR_EL0` is 0x8444_8004: it has neither IDC nor DIC, by which a CPU
    /// says that parts of this are not needed. Source: Arm ARM DDI 0487, "VIPT instruction caches";
    /// B2.4.4, "Concurrent modification and execution of instructions".
    fn synchronize_instructions(&self, range: PhysRange) {
        // Cache maintenance does not wait for another CPU's stores that this one has observed. A
        // DSB does.
        self.order_stores();
        let bytes = self.data_line_bytes();
        let mut line = range.start & !(bytes - 1);
        while line < range.end {
            self.clean_line(line);
            line += bytes;
        }
        self.barrier(Barrier::Everything);
        self.drop_instructions();
        self.barrier(Barrier::Everything);
    }
}

impl<H: Hardware + ?Sized> Maintenance for H {}
