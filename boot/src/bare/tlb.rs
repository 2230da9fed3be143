//! Stage 2's hardware: table words, barriers, and the TLB maintenance of all CPUs.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use oche_hyp::addr::{Gfn, Hfn, PAGE_BYTES};

use crate::bare::cache;
use crate::range::PhysRange;
use crate::stage2::Hardware;

/// This machine's CPUs. The tables it is asked about lie in memory that EL2 maps and Oche owns.
#[derive(Clone, Copy, Debug)]
pub struct Cpus;

impl Cpus {
    fn word(&self, table: u64, index: usize) -> &AtomicU64 {
        let pointer = (table as *const AtomicU64).wrapping_add(index);
        // SAFETY: `Stage2` passes addresses inside the table memory that it was given at boot, which is
        // mapped, aligned, and only ever accessed as atomics.
        unsafe { &*pointer }
    }
}

impl Hardware for Cpus {
    fn load(&self, table: u64, index: usize) -> u64 {
        // Acquire: a table is read only after the entry that names it.
        self.word(table, index).load(Ordering::Acquire)
    }

    fn store(&self, table: u64, index: usize, value: u64) {
        // Release: a table's contents and a page's bytes come before the entry that shows them.
        self.word(table, index).store(value, Ordering::Release);
    }

    fn exchange(&self, table: u64, index: usize, old: u64, new: u64) -> bool {
        self.word(table, index).compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn order_stores(&self) {
        // Walks are made by the CPUs of the inner shareable domain. DSB, not DMB: a walk is not an explicit
        // access. Source: Arm ARM DDI 0487, "Ordering and completion of TLB maintenance instructions".
        // SAFETY: a barrier changes nothing.
        unsafe { asm!("dsb ishst", "isb", options(nostack, preserves_flags)) };
    }

    fn publish_stores(&self) {
        // ST without a domain is the full system's: an IOMMU and the devices behind it may observe outside
        // the CPUs' inner shareable domain.
        // SAFETY: as for `order_stores`.
        unsafe { asm!("dsb st", "isb", options(nostack, preserves_flags)) };
    }

    fn invalidate_page(&self, page: Gfn) {
        // The operand holds IPA[51:12] in bits 39:0; TTL = 0: any level.
        let operand = u64::from(page.0);
        // SAFETY: dropping TLB entries of the guest only costs walks.
        unsafe { asm!("tlbi ipas2e1is, {}", in(reg) operand, options(nostack, preserves_flags)) };
    }

    fn invalidate_all(&self) {
        // SAFETY: as for `invalidate_page`.
        unsafe { asm!("tlbi vmalls12e1is", "dsb ish", "isb", options(nostack, preserves_flags)) };
    }

    fn finish_invalidation(&self) {
        // IPAS2E1IS drops stage-2 entries only; entries that combine both stages are found by VA, which
        // nobody knows, so all of them go. Source: Arm ARM DDI 0487, "TLB maintenance requirements":
        // DSB, TLBI VMALLE1IS, DSB. With TGE = 0 it acts on the guest's regime and VMID.
        // SAFETY: as for `invalidate_page`.
        unsafe {
            asm!("dsb ish", "tlbi vmalle1is", "dsb ish", "isb", options(nostack, preserves_flags));
        }
    }

    fn synchronize_instructions(&self, at: Hfn) {
        let start = at.address();
        cache::synchronize_instructions(PhysRange { start, end: start + PAGE_BYTES as u64 });
    }
}
