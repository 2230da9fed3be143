//! The guest's memory and its stage-2 tables, for all CPUs.

use oche_types::range::{PhysRange, RangeList};

use crate::lock::Once;
use crate::stage2::Root;

static ROOT: Once<Root> = Once::new();
/// The memory in which a CPU may start.
static MEMORY: Once<RangeList> = Once::new();
/// From the first byte of that memory to the last.
static SPAN: Once<PhysRange> = Once::new();

/// Sets the stage-2 tables that every CPU uses.
pub fn set_root(root: Root) {
    ROOT.set(root);
}

/// The stage-2 tables. Only once [`set_root`] has noted them: before a CPU runs any of the guest.
pub fn root() -> &'static Root {
    ROOT.get().expect("invariant: stage 2 is built before a CPU runs any of the guest")
}

/// Sets the guest's RAM.
pub fn set_memory(memory: RangeList) {
    let ranges = memory.as_slice();
    SPAN.set(PhysRange {
        start: ranges.iter().map(|range| range.start).min().unwrap_or(0),
        end: ranges.iter().map(|range| range.end).max().unwrap_or(0),
    });
    MEMORY.set(memory);
}

/// Whether an instruction at guest-physical `address` is in the guest's RAM.
pub fn is_memory(address: u64) -> bool {
    let range = PhysRange { start: address, end: address.saturating_add(4) };
    MEMORY.get().is_some_and(|memory| memory.covers(&range))
}

/// Whether guest-physical `address` is in the guest's RAM or between its parts, where no board has
/// the registers of a DART.
#[inline]
pub(crate) fn is_in_memory_span(address: u64) -> bool {
    SPAN.get().is_some_and(|span| span.contains(address))
}
