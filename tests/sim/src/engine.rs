//! What holds of every call into the engine, whatever is asked of it: it allocates nothing, and its
//! work has a bound. What it allocates when it begins is no more than it promised.
//!
//! The first is checked in a program whose allocator is [`Counting`](crate::allocations::Counting).

use crate::allocations::allocations_of;
use crate::machine::SimulatedMachine;
use oche_engine::budget::SLICE_BYTES;
use oche_engine::{AccessError, AccessKind, Configuration, FaultDisposition, Parts};
use oche_types::addr::{Gfn, Hfn};
use oche_types::dart::stream::DartId;
use oche_types::selection::Selection;

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
        let begin = || oche_engine::Engine::new(configuration, host);
        let (mut engine, _, bytes) = allocations_of(begin);
        let bound = configuration.heap_bytes();
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
        let (result, allocations, _) = allocations_of(|| call(&mut self.engine, host));
        let bytes = host.touched_bytes.get();
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
    pub fn load_known<const C: bool>(
        &mut self,
        host: &mut SimulatedMachine<C>,
        address: u64,
        parts: Parts,
    ) -> Option<[u64; 2]> {
        self.call(host, |engine, host| engine.load_known(host, address, parts))
    }

    /// As the engine's.
    pub fn store_known<const C: bool>(
        &mut self,
        host: &mut SimulatedMachine<C>,
        address: u64,
        parts: Parts,
        values: [u64; 2],
    ) -> bool {
        self.call(host, |engine, host| engine.store_known(host, address, parts, values))
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
    pub fn close_trapped<const C: bool>(&mut self, host: &mut SimulatedMachine<C>, page: Gfn) {
        self.call(host, |engine, host| engine.close_trapped(host, page));
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
pub fn slice_of(pages: u32) -> usize {
    match pages {
        256 => 64 << 10,
        512 => 1 << 20,
        _ => SLICE_BYTES,
    }
}
