#![expect(unsafe_code, reason = "an allocator is an unsafe trait")]
//! Counts what the engine allocates.
//!
//! A program in which this is checked uses [`Counting`] as its allocator. Allocations by the
//! simulated machine are not counted: each of its methods leaves the engine first.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use oche_engine::heap::rounded;

thread_local! {
    static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    /// Bytes of them, as EL2's heap would round them.
    static ALLOCATED_BYTES: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator. Counts what is allocated inside the engine once that has begun.
#[derive(Debug)]
pub struct Counting;

// SAFETY: all is passed on to the system's allocator, unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if IS_INSIDE.get() {
            ALLOCATIONS.set(ALLOCATIONS.get() + 1);
            ALLOCATED_BYTES.set(ALLOCATED_BYTES.get() + rounded(layout.size()));
        }
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as for `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Until it is dropped, what runs is inside the engine, or outside of it.
pub(crate) struct Side(bool);

impl Drop for Side {
    fn drop(&mut self) {
        IS_INSIDE.set(self.0);
    }
}

fn inside() -> Side {
    Side(IS_INSIDE.replace(true))
}

/// Calls `call` and returns its number of allocations, and of bytes as EL2's heap rounds them. Both
/// are 0 in a program whose allocator is not [`Counting`].
pub fn allocations_of<T>(call: impl FnOnce() -> T) -> (T, usize, usize) {
    ALLOCATIONS.set(0);
    ALLOCATED_BYTES.set(0);
    let side = inside();
    let result = call();
    drop(side);
    (result, ALLOCATIONS.get(), ALLOCATED_BYTES.get())
}

/// The simulated machine is at work, not the engine.
pub(crate) fn outside() -> Side {
    Side(IS_INSIDE.replace(false))
}
