//! Pages of memory that CPUs and devices share.

use core::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a page.
pub const PAGE_BYTES: u64 = 4096;

/// Consecutive pages, accessed word by word.
#[repr(C, align(4096))]
pub struct Pages<const COUNT: usize>([[AtomicU64; 512]; COUNT]);

impl<const COUNT: usize> Pages<COUNT> {
    /// Pages of zeros.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "these are statics")]
    pub const fn new() -> Self {
        Self([const { [const { AtomicU64::new(0) }; 512] }; COUNT])
    }

    /// The guest-physical address of the first byte.
    #[must_use]
    pub fn address(&self) -> u64 {
        (&raw const self.0) as u64
    }

    /// How many words there are.
    #[must_use]
    pub fn words(&self) -> usize {
        COUNT * 512
    }

    /// Loads word `index`.
    pub fn word(&self, index: usize) -> u64 {
        self.0.as_flattened()[index].load(Ordering::SeqCst)
    }

    /// Stores word `index`.
    pub fn set_word(&self, index: usize, value: u64) {
        self.0.as_flattened()[index].store(value, Ordering::SeqCst);
    }
}
