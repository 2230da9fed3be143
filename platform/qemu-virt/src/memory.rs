//! How much heap this board needs.

use oche_platform::memory;

use crate::iommu_map::MAX_DARTS;

/// Number of emulated DARTs.
pub const DARTS: usize = MAX_DARTS as usize;

/// Upper bound of the heap that the engine and the trace port take.
pub fn engine_bytes(ram_bytes: u64, pool_bytes: u64) -> u64 {
    memory::heap_bytes(DARTS, ram_bytes, pool_bytes)
}
