//! EL2's heap: one range of reserved memory, sealed when the guest starts.
//!
//! Blocks come from a buddy allocator, which gets memory from the start of the range, a chunk at a
//! time. It rounds a block to a power of two and aligns it to its size, so a large array is not one
//! of its blocks: arrays are taken from the end of the range, in whole pages.
//!
//! After [`seal`], an allocation stops the machine. Everything that the guest can cause Oche to use
//! is allocated before, so that no guest can exhaust the heap.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut, with_exposed_provenance_mut};
use core::sync::atomic::{AtomicBool, Ordering};

use buddy_system_allocator::Heap;
use oche_el2::failure::Failure;
use oche_el2::firmware::fatal;
use oche_el2::lock::SpinLock;
use oche_engine::heap::{ARRAY_BYTES, rounded};
use oche_types::range::{BLOCK, PAGE, PhysRange};

/// What the buddy allocator gets at a time. Larger than any block, and as aligned as the heap.
const CHUNK_BYTES: u64 = BLOCK;
const _: () = assert!(CHUNK_BYTES as usize > ARRAY_BYTES);

/// The heap's memory.
struct Memory {
    blocks: Heap<32>,
    /// The part of the range that is in no chunk and in no array.
    rest: PhysRange,
    /// Bytes of the whole range.
    total: usize,
    /// Bytes of all arrays.
    in_arrays: usize,
}

impl Memory {
    fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        if layout.size() >= ARRAY_BYTES && layout.align() as u64 <= PAGE {
            return self.alloc_array(rounded(layout.size()));
        }
        if let Ok(block) = self.blocks.alloc(layout) {
            return Some(block);
        }
        let end = self.rest.start.checked_add(CHUNK_BYTES).filter(|end| *end <= self.rest.end)?;
        // SAFETY: `give`'s promise for the whole range, of which the chunk is given once.
        unsafe { self.blocks.add_to_heap(self.rest.start as usize, end as usize) };
        self.rest.start = end;
        self.blocks.alloc(layout).ok()
    }

    fn alloc_array(&mut self, bytes: usize) -> Option<NonNull<u8>> {
        let start = self.rest.end.checked_sub(bytes as u64)?;
        if start < self.rest.start {
            return None;
        }
        self.rest.end = start;
        self.in_arrays += bytes;
        NonNull::new(with_exposed_provenance_mut(start as usize))
    }

    /// # Safety
    ///
    /// `start` is an array of so many bytes that [`Self::alloc_array`] returned and that is not
    /// used any more.
    unsafe fn free_array(&mut self, start: NonNull<u8>, bytes: usize) {
        self.in_arrays -= bytes;
        let start = start.addr().get();
        if self.rest.end == start as u64 {
            self.rest.end += bytes as u64;
        } else {
            // SAFETY: the caller's promise: the memory has no other use.
            unsafe { self.blocks.add_to_heap(start, start + bytes) };
        }
    }
}

struct Locked(SpinLock<Memory>);

#[global_allocator]
static HEAP: Locked = Locked(SpinLock::new(Memory {
    blocks: Heap::empty(),
    rest: PhysRange { start: 0, end: 0 },
    total: 0,
    in_arrays: 0,
}));

/// Whether the guest has started.
static IS_SEALED: AtomicBool = AtomicBool::new(false);

/// Makes any further allocation stop the machine.
pub fn seal() {
    IS_SEALED.store(true, Ordering::Release);
}

/// Gives `memory`, which begins at a multiple of 2 MiB, to the heap.
///
/// # Safety
///
/// `memory` is mapped read-write by EL2's stage 1 and has no other use. Nothing was given before.
pub unsafe fn give(memory: PhysRange) {
    let mut heap = HEAP.0.lock();
    heap.rest = memory.shrunk_to(PAGE);
    heap.total = heap.rest.size() as usize;
}

/// Number of bytes that are allocated, and of all bytes.
pub fn usage() -> (usize, usize) {
    let heap = HEAP.0.lock();
    (heap.blocks.stats_alloc_actual() + heap.in_arrays, heap.total)
}

// SAFETY: blocks and arrays are disjoint and at least of the layout's size and alignment, from
// memory that `give`'s caller vouched for; the lock serialises it.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if IS_SEALED.load(Ordering::Acquire) {
            let bytes = layout.size();
            fatal(
                Failure::Heap,
                format_args!(
                    "invariant: nothing is allocated after the guest has started ({bytes} bytes)"
                ),
            );
        }
        let block = self.0.lock().alloc(layout);
        if block.is_none() {
            // Everything is allocated before the guest runs, so a bound in the memory layout is too
            // low.
            let (used, total) = usage();
            fatal(
                Failure::Heap,
                format_args!("no heap for {} bytes: {used} of {total} are used", layout.size()),
            );
        }
        block.map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let Some(pointer) = NonNull::new(pointer) else { return };
        let mut heap = self.0.lock();
        if layout.size() >= ARRAY_BYTES && layout.align() as u64 <= PAGE {
            // SAFETY: the caller returns an array of `alloc` with its layout.
            unsafe { heap.free_array(pointer, rounded(layout.size())) };
        } else {
            // SAFETY: as above, for a block.
            unsafe { heap.blocks.dealloc(pointer, layout) };
        }
    }
}
