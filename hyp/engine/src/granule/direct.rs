//! Direct granules: their pages are at home in one frame, in order, so that the hardware entry can
//! point at that frame.
//!
//! Without windows, all four pages are needed. With windows, a run of adjacent pages is enough: the
//! entry's window excludes the other pages of the frame, which may belong to anything in the guest.
//! A new neighbour that fits widens the window, and one unmapped at an end narrows it. The entry
//! changes with one store, and what a device does meanwhile is correct under both entries. If a new
//! neighbour does not fit, the granule is relocated while devices use it
//! ([`GranuleMapper::migrate`](crate::granule::GranuleMapper::migrate)).
//!
//! That live move costs more than relocating at the first mapping, and a device that reads back
//! what it wrote during the move may read the old value. A run that devices may write is therefore
//! direct only if no further neighbour is expected. A run that they only read always is. The
//! reasons are in `docs/adr/0015-windows.md`.

use oche_types::addr::{HostGranule, SLOTS, SlotRun};
use oche_types::dart::entry::{Leaf, Permission};

use crate::granule::env::Env;
use crate::granule::state::Form;
use crate::granule::strict;

/// A run of so many pages gets no neighbour: Linux's IOVA allocator rounds sizes up to a power of
/// two, so nothing else is mapped in the fourth page. Source: Linux 6.1 `drivers/iommu/iova.c`,
/// `alloc_iova_fast`.
const PADDED_PAGES: usize = 3;

/// The frame that a direct entry for all of `wanted` would point at, in a granule of `form`, if
/// there is one and a direct entry is worthwhile.
pub(super) fn frame(form: Form, wanted: &[Option<Leaf>; SLOTS], env: &Env) -> Option<HostGranule> {
    if matches!(form, Form::Relocated(_)) {
        return None;
    }
    let run = SlotRun::around(wanted.map(|leaf| leaf.is_some()))?;
    let first = wanted.get(run.first()).copied().flatten()?;
    let frame = first.page.home().frame();
    let mut slots = wanted.iter().zip(&env.pages).enumerate();
    let is_in_order = slots.all(|(slot, (leaf, facts))| match leaf {
        Some(leaf) => leaf.page.home() == frame.page(slot) && facts.stays_home,
        None => !run.contains(slot),
    });
    if !is_in_order || !strict::is_uniform(wanted, env.isolation) {
        return None;
    }
    let is_worthwhile = match form {
        Form::Direct(old) => old == frame,
        Form::Relocated(_) => false,
        Form::Empty if run == SlotRun::ALL => true,
        Form::Empty => env.has_windows && expects_no_neighbour(frame, run, wanted, env),
    };
    is_worthwhile.then_some(frame)
}

/// Whether a run of pages can stay at home: either a later neighbour that does not fit would do no
/// harm, or none is expected.
fn expects_no_neighbour(
    frame: HostGranule,
    run: SlotRun,
    wanted: &[Option<Leaf>; SLOTS],
    env: &Env,
) -> bool {
    let all =
        wanted.iter().flatten().fold(Permission::default(), |all, leaf| all.union(leaf.permission));
    if !all.write {
        return true;
    }
    let is_tail = env.direct_before.is_some_and(|before| before.0.checked_add(1) == Some(frame.0));
    run.first() == 0 && (run.last() + 1 >= PADDED_PAGES || is_tail)
}

/// Whether the slots in `mapped` are adjacent.
pub(super) fn is_run(mapped: [bool; SLOTS]) -> bool {
    let Some(run) = SlotRun::around(mapped) else { return false };
    mapped.iter().enumerate().all(|(index, is_mapped)| *is_mapped || !run.contains(index))
}
