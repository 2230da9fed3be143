//! The implementation of stage 2's [`Hardware`]: table words, barriers, and maintenance of all
//! CPUs' TLBs and instruction caches.
//!
//! Each method is one instruction; `stage2::maintenance` decides their order.
#![expect(unsafe_code, reason = "barriers, TLB maintenance and table words")]

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::registers::{VTTBR_EL2, Writeable};

use crate::percpu;
use crate::registers::CtrEl0;
use crate::stage2::Hardware;
use crate::stage2::hardware::{Barrier, Translations};

/// The hardware of this machine. The tables are in memory that EL2 maps and Oche owns.
#[derive(Clone, Copy, Debug)]
pub struct Cpus;

impl Cpus {
    fn word(&self, table: u64, index: usize) -> &AtomicU64 {
        let pointer = (table as *const AtomicU64).wrapping_add(index);
        // SAFETY: `Stage2` passes addresses inside the table memory that it was given at boot,
        // which is mapped, aligned, and only ever accessed as atomics.
        unsafe { &*pointer }
    }
}

// SAFETY: each method is the instruction that the trait names.
unsafe impl Hardware for Cpus {
    fn load(&self, table: u64, index: usize) -> u64 {
        // Acquire: a table is read after the entry that points to it.
        self.word(table, index).load(Ordering::Acquire)
    }

    fn store(&self, table: u64, index: usize, value: u64) {
        // Release: a table's contents and a page's bytes are stored before the entry that points to
        // them.
        self.word(table, index).store(value, Ordering::Release);
    }

    fn exchange(&self, table: u64, index: usize, old: u64, new: u64) -> bool {
        self.word(table, index)
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    #[inline(always)]
    fn barrier(&self, barrier: Barrier) {
        match barrier {
            // SAFETY: a barrier changes nothing.
            Barrier::Stores => unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) },
            // SAFETY: the same.
            Barrier::Everything => unsafe { asm!("dsb ish", options(nostack, preserves_flags)) },
            // SAFETY: the same.
            Barrier::StoresForAll => unsafe { asm!("dsb st", options(nostack, preserves_flags)) },
            // SAFETY: the same.
            Barrier::Here => unsafe { asm!("dsb nsh", options(nostack, preserves_flags)) },
        }
    }

    #[inline(always)]
    fn invalidate(&self, translations: Translations) {
        if translations != Translations::AllHere {
            percpu::this().exits.count_tlb_broadcast();
        }
        match translations {
            Translations::Page(page) => {
                // The operand holds IPA[51:12] in bits 39:0; TTL = 0: any level.
                let operand = u64::from(page.0);
                // SAFETY: dropping TLB entries of the guest only costs walks.
                unsafe {
                    asm!("tlbi ipas2e1is, {}", in(reg) operand, options(nostack, preserves_flags))
                }
            }
            // With TGE = 0 it applies to the guest's regime and VMID, as do the two below.
            // SAFETY: dropping TLB entries of the guest only costs walks.
            Translations::FirstStage => unsafe {
                asm!("tlbi vmalle1is", options(nostack, preserves_flags))
            },
            // SAFETY: the same.
            Translations::All => unsafe {
                asm!("tlbi vmalls12e1is", options(nostack, preserves_flags))
            },
            // SAFETY: the same.
            Translations::AllHere => unsafe {
                asm!("tlbi vmalls12e1", options(nostack, preserves_flags))
            },
        }
    }

    fn select_tables(&self, vttbr: u64) {
        VTTBR_EL2.set(vttbr);
    }

    fn data_line_bytes(&self) -> u64 {
        // `CTR_EL0.DminLine`: log2 of the words in the smallest data cache line.
        4 << (CtrEl0.read() >> 16 & 0xf)
    }

    fn clean_line(&self, address: u64) {
        // SAFETY: callers pass memory that EL2 maps, and the operation keeps data.
        unsafe { asm!("dc cvau, {}", in(reg) address, options(nostack, preserves_flags)) };
    }

    fn drop_instructions(&self) {
        // SAFETY: what is dropped is fetched again.
        unsafe { asm!("ic ialluis", options(nostack, preserves_flags)) };
    }
}
