//! What every CPU knows of the guest: its memory, and the stage-2 tables that it runs with.

use oche_types::range::{PhysRange, RangeList};

use crate::lock::Once;
use crate::stage2::Root;

static ROOT: Once<Root> = Once::new();
/// Where a guest may ask a CPU to begin.
static MEMORY: Once<RangeList> = Once::new();

/// Notes the stage-2 tables that every CPU will use.
pub fn set_root(root: Root) {
    ROOT.set(root);
}

/// The stage-2 tables. Only once [`set_root`] has noted them: before a CPU runs any of the guest.
pub fn root() -> &'static Root {
    ROOT.get().expect("invariant: stage 2 is built before a CPU runs any of the guest")
}

/// Notes the guest's RAM.
pub fn set_memory(memory: RangeList) {
    MEMORY.set(memory);
}

/// Whether there is room for an instruction of the guest at guest-physical `address`.
pub fn is_memory(address: u64) -> bool {
    let range = PhysRange { start: address, end: address.saturating_add(4) };
    MEMORY.get().is_some_and(|memory| memory.covers(&range))
}
