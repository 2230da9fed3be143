//! The guest's memory and its stage-2 tables, for all CPUs.

use oche_types::range::{PhysRange, RangeList};

use crate::lock::Once;
use crate::stage2::Root;

static ROOT: Once<Root> = Once::new();
/// The memory in which a CPU may start.
static MEMORY: Once<RangeList> = Once::new();

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
    MEMORY.set(memory);
}

/// Whether an instruction at guest-physical `address` is in the guest's RAM.
pub fn is_memory(address: u64) -> bool {
    let range = PhysRange { start: address, end: address.saturating_add(4) };
    MEMORY.get().is_some_and(|memory| memory.covers(&range))
}
