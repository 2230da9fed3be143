//! EL2's heap: a buddy allocator over one range of reserved memory, sealed when the guest starts.
//!
//! After [`seal`], an allocation stops the machine. Everything that the guest can cause Oche to use
//! is allocated before, so that no guest can exhaust the heap.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicBool, Ordering};

use buddy_system_allocator::Heap;
use oche_el2::firmware::fatal;
use oche_el2::lock::SpinLock;
use oche_types::range::PhysRange;

struct Locked(SpinLock<Heap<32>>);

#[global_allocator]
static HEAP: Locked = Locked(SpinLock::new(Heap::empty()));

/// Whether the guest has started.
static IS_SEALED: AtomicBool = AtomicBool::new(false);

/// Makes any further allocation stop the machine.
pub fn seal() {
    IS_SEALED.store(true, Ordering::Release);
}

/// Gives `memory` to the heap.
///
/// # Safety
///
/// `memory` is mapped read-write by EL2's stage 1, has no other use, and is given once.
pub unsafe fn give(memory: PhysRange) {
    // SAFETY: exactly this function's contract; addresses are pointers because the map is the
    // identity.
    unsafe { HEAP.0.lock().add_to_heap(memory.start as usize, memory.end as usize) };
}

/// Number of bytes that are allocated, and of all bytes.
pub fn usage() -> (usize, usize) {
    let heap = HEAP.0.lock();
    (heap.stats_alloc_actual(), heap.stats_total_bytes())
}

// SAFETY: the buddy allocator gives disjoint blocks of at least the layout's size and alignment,
// from memory that `give`'s caller vouched for; the lock serialises it.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if IS_SEALED.load(Ordering::Acquire) {
            let bytes = layout.size();
            fatal(format_args!(
                "invariant: nothing is allocated after the guest has started ({bytes} bytes)"
            ));
        }
        let block = self.0.lock().alloc(layout);
        if block.is_err() {
            // Everything is allocated before the guest runs, so a bound in the memory layout is too
            // low.
            let (used, total) = usage();
            fatal(format_args!("no heap for {} bytes: {used} of {total} are used", layout.size()));
        }
        block.map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if let Some(pointer) = NonNull::new(pointer) {
            // SAFETY: the caller returns a block of `alloc` with its layout.
            unsafe { self.0.lock().dealloc(pointer, layout) };
        }
    }
}
