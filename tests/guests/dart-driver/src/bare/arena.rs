//! Memory for translation tables and for the buffers of devices.

use core::arch::asm;
use core::cell::UnsafeCell;

/// Pages for tables and buffers, all zero at first.
const PAGES: usize = 64;

#[repr(C, align(16384))]
struct Arena(UnsafeCell<[[u64; 512]; PAGES]>);

// SAFETY: one CPU uses it.
unsafe impl Sync for Arena {}

static ARENA: Arena = Arena(UnsafeCell::new([[0; 512]; PAGES]));

/// The physical address of page `index` of the arena; four in a row from a multiple of four share
/// 16 KiB.
pub(super) fn page(index: usize) -> u64 {
    ARENA.0.get() as u64 + (index % PAGES) as u64 * 4096
}

/// Stores a word of memory, and orders it before what follows.
pub(super) fn store(address: u64, value: u64) {
    // SAFETY: an address in the arena; devices read it at any time.
    unsafe { (address as *mut u64).write_volatile(value) };
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// Loads a word of memory.
pub(super) fn load(address: u64) -> u64 {
    // SAFETY: as for `store`.
    unsafe { (address as *const u64).read_volatile() }
}

/// Fills a page with words that differ in each place and for each seed.
pub(super) fn fill(address: u64, seed: u64) {
    (0..512).for_each(|word| store(address + word * 8, seed << 32 | word));
}

/// Whether `bytes` at an address are what [`fill`] stored in a page.
pub(super) fn is_filled(address: u64, seed: u64, bytes: u64) -> bool {
    (0..bytes / 8).all(|word| load(address + word * 8) == seed << 32 | word)
}

/// Fills the four pages from `address` on, each with a seed of its own from `seed` on.
pub(super) fn fill_16k(address: u64, seed: u64) {
    (0..4).for_each(|part| fill(address + part * 4096, seed + part));
}

/// Whether the four pages at `address` are as [`fill_16k`] left another four.
pub(super) fn is_filled_16k(address: u64, seed: u64) -> bool {
    (0..4).all(|part| is_filled(address + part * 4096, seed + part, 4096))
}
