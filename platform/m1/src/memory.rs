//! How much heap this board needs.

use oche_platform::memory;
use oche_types::dart::stream::MAX_DARTS;

use crate::nvme;

/// Most DARTs that are emulated.
pub const DARTS: usize = MAX_DARTS;

/// Upper bound of the heap that the engine, the NVMe driver and the trace port take.
pub fn engine_bytes(ram_bytes: u64, pool_bytes: u64) -> u64 {
    memory::heap_bytes(DARTS, ram_bytes, pool_bytes) + nvme::HEAP_BYTES
}
