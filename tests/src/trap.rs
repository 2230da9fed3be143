#![expect(unsafe_code, reason = "an allocator is an unsafe trait")]
//! What holds of every call into the engine, whatever is asked of it: it allocates nothing, and its
//! work has a bound. What it allocates when it begins is no more than it promised.
//!
//! [`Counting`] is the allocator of a program that wants the first to be checked. The simulated
//! machine allocates as it likes: each of its methods leaves the engine first.

use crate::simulated_machine::SimulatedMachine;
use oche_engine::budget::SLICE_BYTES;
use oche_engine::{AccessError, AccessKind, Configuration, FaultDisposition};
use oche_types::addr::{Gfn, Hfn};
use oche_types::dart::stream::DartId;
use oche_types::selection::Selection;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    /// Bytes of them, as the buddy allocator of EL2 would round them.
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
            ALLOCATED_BYTES.set(ALLOCATED_BYTES.get() + layout.size().next_power_of_two());
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

/// Does `call` and returns how often it allocates, and how many bytes as EL2's buddy allocator
/// rounds them. Both are 0 in a program whose allocator is not [`Counting`].
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

/// What a trap may do beyond its slice: one change of a granule, whose pages a program maps some
/// ten times.
const EXCESS_BYTES: u64 = 8 << 20;

/// The engine, each of whose calls is checked.
pub struct Engine {
    engine: oche_engine::Engine,
    slice_bytes: usize,
}

impl Engine {
    /// As [`oche_engine::Engine::new`], with so many bytes of work in one trap.
    pub fn new<const C: bool>(
        configuration: &Configuration<'_>,
        host: &mut SimulatedMachine<C>,
        slice_bytes: usize,
    ) -> Self {
        ALLOCATED_BYTES.set(0);
        let side = inside();
        let mut engine = oche_engine::Engine::new(configuration, host);
        drop(side);
        let (bytes, bound) = (ALLOCATED_BYTES.get(), configuration.heap_bytes());
        // Nothing is counted in a program with another allocator.
        let is_as_promised = bytes == 0 || bytes == bound;
        assert!(is_as_promised, "the engine takes {bytes} bytes of heap, {bound} were promised");
        engine.set_slice_bytes(slice_bytes);
        Self { engine, slice_bytes }
    }

    fn call<const C: bool, T>(
        &mut self,
        host: &mut SimulatedMachine<C>,
        call: impl FnOnce(&mut oche_engine::Engine, &mut SimulatedMachine<C>) -> T,
    ) -> T {
        host.touched_bytes.set(0);
        ALLOCATIONS.set(0);
        let side = inside();
        let result = call(&mut self.engine, host);
        drop(side);
        let (allocations, bytes) = (ALLOCATIONS.get(), host.touched_bytes.get());
        if allocations != 0 {
            host.violate(format!("the engine allocates {allocations} times after it has begun"));
        }
        if bytes > self.slice_bytes as u64 + EXCESS_BYTES {
            host.violate(format!(
                "the engine touches {bytes} bytes in one trap, of {}",
                self.slice_bytes
            ));
        }
        result
    }

    /// As the engine's.
    ///
    /// # Errors
    ///
    /// As the engine's.
    pub fn read<const C: bool>(
        &mut self,
        host: &mut SimulatedMachine<C>,
        dart: DartId,
        offset: u64,
        bytes: usize,
    ) -> Result<u32, AccessError> {
        self.call(host, |engine, host| engine.read(host, dart, offset, bytes))
    }

    /// As the engine's.
    ///
    /// # Errors
    ///
    /// As the engine's.
    pub fn write<const C: bool>(
        &mut self,
        host: &mut SimulatedMachine<C>,
        dart: DartId,
        offset: u64,
        bytes: usize,
        value: u32,
    ) -> Result<(), AccessError> {
        self.call(host, |engine, host| engine.write(host, dart, offset, bytes, value))
    }

    /// As the engine's.
    pub fn access_trapped<const C: bool>(
        &mut self,
        host: &mut SimulatedMachine<C>,
        address: u64,
        reach: AccessKind,
    ) -> FaultDisposition {
        self.call(host, |engine, host| engine.access_trapped(host, address, reach))
    }

    /// As the engine's.
    pub fn load_trapped<const C: bool>(
        &mut self,
        host: &mut SimulatedMachine<C>,
        page: Gfn,
        offset: usize,
        bytes: usize,
    ) -> u64 {
        self.call(host, |engine, host| engine.load_trapped(host, page, offset, bytes))
    }

    /// As the engine's.
    pub fn store_trapped<const C: bool>(
        &mut self,
        host: &mut SimulatedMachine<C>,
        page: Gfn,
        offset: usize,
        bytes: usize,
        value: u64,
    ) {
        self.call(host, |engine, host| engine.store_trapped(host, page, offset, bytes, value));
    }

    /// As the engine's.
    pub fn open_trapped<const C: bool>(
        &mut self,
        host: &mut SimulatedMachine<C>,
        page: Gfn,
    ) -> Hfn {
        self.call(host, |engine, host| engine.open_trapped(host, page))
    }

    /// As the engine's.
    pub fn settle_trapped<const C: bool>(&mut self, host: &mut SimulatedMachine<C>, page: Gfn) {
        self.call(host, |engine, host| engine.settle_trapped(host, page));
    }

    /// As the engine's.
    pub fn watch<const C: bool>(&mut self, host: &mut SimulatedMachine<C>, ranges: &[Selection]) {
        self.call(host, |engine, host| engine.watch(host, ranges));
    }

    /// As the engine's.
    pub fn pin<const C: bool>(&mut self, host: &mut SimulatedMachine<C>, page: Gfn) {
        self.call(host, |engine, host| engine.pin(host, page));
    }

    /// As the engine's.
    pub fn unpin<const C: bool>(&mut self, host: &mut SimulatedMachine<C>, page: Gfn) {
        self.call(host, |engine, host| engine.unpin(host, page));
    }

    /// As the engine's.
    pub fn locate(&self, page: Gfn) -> Hfn {
        self.engine.locate(page)
    }
}

/// The slice of a program on a machine with `pages` pages: in most, flushes take several polls.
pub(crate) fn slice_of(pages: u32) -> usize {
    match pages {
        256 => 64 << 10,
        512 => 1 << 20,
        _ => SLICE_BYTES,
    }
}
