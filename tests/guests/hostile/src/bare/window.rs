//! 4 KiB pages of stage 1 at addresses of their own, with rights that change: EL0's view of memory.

use core::arch::asm;

use oche_guest_common::Pages;
use oche_guest_common::entry::set_stage1;

/// Where the window begins: AArch32 code can address it, and this machine has no memory there.
const WINDOW: u64 = 3 << 30;
/// A table; a page: valid, inner shareable memory, AF.
const TABLE: u64 = 3;
const PAGE: u64 = 3 | 3 << 8 | 1 << 10;
/// `AP[1]`: EL0 has access. `AP[2]`: read-only.
const USER: u64 = 1 << 6;
const READ_ONLY: u64 = 1 << 7;
/// `PXN`, `UXN`.
const NO_EXECUTE: u64 = 1 << 53 | 1 << 54;

static MIDDLE: Pages<1> = Pages::new();
static LEAVES: Pages<1> = Pages::new();

/// How EL1 and EL0 may access a page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    /// EL1 and EL0 load and store.
    User,
    /// EL1 and EL0 load.
    UserReadOnly,
    /// EL0 loads and executes.
    UserCode,
    /// EL0 loads, stores and executes.
    UserAll,
    /// EL1 loads and stores.
    Kernel,
    /// EL1 loads.
    KernelReadOnly,
}

/// The slots: a program's code; a page with copies; a page without.
pub(super) const CODE: usize = 0;
pub(super) const TRAPPED: usize = 1;
pub(super) const PLAIN: usize = 2;

/// Enters the window into the tables.
pub(super) fn begin() {
    MIDDLE.set_word(0, LEAVES.address() | TABLE);
    for entry in [0, MIDDLE.address() | TABLE] {
        set_stage1((WINDOW >> 30) as usize, entry);
        // SAFETY: dropping TLB entries only costs walks.
        unsafe { asm!("dsb ishst", "tlbi vmalle1is", "dsb ish", "isb", options(nostack)) };
    }
}

/// The virtual address of a slot.
pub(super) const fn address(slot: usize) -> u64 {
    WINDOW + slot as u64 * 4096
}

/// Maps the page at `page` in a slot, for all CPUs, by break-before-make if another page is there.
pub(super) fn set(slot: usize, page: u64, rights: Rights) {
    let rights = match rights {
        Rights::User => USER | NO_EXECUTE,
        Rights::UserReadOnly => USER | READ_ONLY | NO_EXECUTE,
        Rights::UserCode => USER | READ_ONLY,
        Rights::UserAll => USER,
        Rights::Kernel => NO_EXECUTE,
        Rights::KernelReadOnly => READ_ONLY | NO_EXECUTE,
    };
    let old = LEAVES.word(slot);
    if old != 0 && old & !0xfff & !NO_EXECUTE != page {
        clear(slot);
    }
    LEAVES.set_word(slot, page | PAGE | rights);
    invalidate(slot);
}

/// Maps nothing in a slot.
pub(super) fn clear(slot: usize) {
    LEAVES.set_word(slot, 0);
    invalidate(slot);
}

/// After this no CPU's access uses what was mapped in the slot before.
fn invalidate(slot: usize) {
    let operand = address(slot) >> 12;
    // SAFETY: dropping TLB entries only costs walks.
    unsafe {
        asm!("dsb ishst", "tlbi vaae1is, {}", "dsb ish", "isb", in(reg) operand, options(nostack))
    };
}
