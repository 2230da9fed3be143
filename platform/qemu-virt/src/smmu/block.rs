//! Memory that Oche shares with the SMMU: tables and queues.

use alloc::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use core::ptr::NonNull;

/// Zeroed memory, aligned to its own size, that the SMMU reads or writes. It is never freed.
///
/// EL2's map is the identity, so a pointer is also the physical address. No reference to this
/// memory ever exists, because the SMMU may change it at any time.
pub(super) struct Block {
    base: NonNull<u64>,
    words: usize,
}

// SAFETY: nothing else points to the memory but the hardware, and each access is one volatile word.
unsafe impl Send for Block {}

impl Block {
    /// Allocates 2^`bytes_log2` bytes (3 to 20). Called only at construction.
    ///
    /// # Panics
    ///
    /// Panics if Oche's heap is too small, which depends only on its size at build time.
    pub(super) fn new(bytes_log2: u32) -> Self {
        let bytes = 1_usize << bytes_log2;
        let Ok(layout) = Layout::from_size_align(bytes, bytes) else {
            unreachable!("a power of two is an alignment");
        };
        // SAFETY: the layout's size is not zero.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(memory.cast()) else { handle_alloc_error(layout) };
        Self { base, words: bytes / size_of::<u64>() }
    }

    /// The physical address of the first byte.
    pub(super) fn address(&self) -> u64 {
        self.base.as_ptr().addr() as u64
    }

    /// Loads the 64-bit word `word`, once.
    pub(super) fn load(&self, word: usize) -> u64 {
        let at = self.pointer(word);
        // SAFETY: `pointer` checked that the word is inside the block, which lives for ever.
        unsafe { at.read_volatile() }
    }

    /// Stores the 64-bit word `word`, once.
    pub(super) fn store(&mut self, word: usize, value: u64) {
        let at = self.pointer(word);
        // SAFETY: `pointer` checked that the word is inside the block, which lives for ever.
        unsafe { at.write_volatile(value) }
        #[cfg(test)]
        super::barrier::log::note(super::barrier::log::Step::Store {
            address: at.addr() as u64,
            value,
        });
    }

    fn pointer(&self, word: usize) -> *mut u64 {
        assert!(word < self.words, "word {word} of {}", self.words);
        self.base.as_ptr().wrapping_add(word)
    }
}
