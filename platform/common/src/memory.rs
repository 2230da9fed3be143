//! The heap that the engine and the trace port take, as a function of the machine's memory.

use oche_engine::heap::HeapPart;
use oche_engine::{Configuration, Isolation};
use oche_types::addr::{Gfn, HostGranule};

/// The parts of the heap that `EmulatedDarts`, which only the target has, takes with `darts` DARTs,
/// `ram_bytes` of RAM and a pool of `pool_bytes`.
pub fn heap_parts(darts: usize, ram_bytes: u64, pool_bytes: u64) -> [HeapPart; 8] {
    let ram = [Gfn(0)..Gfn((ram_bytes >> 12) as u32)];
    let pool = HostGranule(0)..HostGranule((pool_bytes >> 14) as u32);
    let isolation = Isolation::default();
    let engine = Configuration { darts, ram: &ram, pool, isolation }.heap_parts();
    let [states, granules, tables, aliases, placed, lists, own] = engine;
    let port = HeapPart { name: "trace port", bytes: oche_virtio::HEAP_BYTES };
    [states, granules, tables, aliases, placed, lists, own, port]
}

/// The sum of [`heap_parts`].
pub fn heap_bytes(darts: usize, ram_bytes: u64, pool_bytes: u64) -> u64 {
    heap_parts(darts, ram_bytes, pool_bytes).iter().map(|part| part.bytes as u64).sum()
}
