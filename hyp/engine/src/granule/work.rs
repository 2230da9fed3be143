//! The items of work under way: pages that are copied, granules that lose pages, pages that come
//! home, copies that are made equal. Plain data, kept in lists of a fixed capacity, so that nothing
//! is allocated while a guest waits.

use oche_types::addr::{Gfn, Granule, Hfn, HostGranule, SLOTS};
use oche_types::event::Place;

use crate::granule::alias::Mapping;
use crate::granule::state::{Form, GranuleState, Slot};

/// Granules in one batch: the pages of a batch are out of the CPUs' reach together, so it is kept
/// short.
pub(crate) const BATCH: usize = 64;

/// A page on its way into a slot of a frame of the pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageCopy {
    pub(super) at: Place,
    pub(super) page: Gfn,
    pub(super) to: Hfn,
    pub(super) kind: CopyKind,
}

/// What becomes of a page and of its copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyKind {
    /// The page itself goes there.
    Move,
    /// It becomes a bounce page.
    Bounce,
    /// It goes home, and what stays in the slot is a bounce page: the granule is about to be
    /// written by devices.
    Demote,
    /// It becomes a bounce page that a device may write, of a page that has no twin yet: here is
    /// one.
    WithTwin(Hfn),
}

/// A granule that loses pages.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnmapOp {
    pub(super) granule: Granule,
    /// As it was before the batch.
    pub(super) before: GranuleState,
    /// Whether each slot is about to be emptied.
    pub(super) is_leaving: [bool; SLOTS],
    /// For a direct granule that keeps pages: the frame that they go to.
    pub(super) split: Option<Split>,
}

/// Where the rest of a direct granule goes, and what it held when it was copied there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Split {
    pub(super) frame: HostGranule,
    pub(super) copied: [Option<Hfn>; SLOTS],
}

impl UnmapOp {
    /// The slots that are about to be emptied, with what is in them.
    pub(super) fn leaving(&self) -> impl Iterator<Item = (usize, Slot)> {
        let slots = self.before.slots.into_iter().zip(self.is_leaving).enumerate();
        slots.filter_map(|(index, (slot, is_leaving))| {
            slot.filter(|_| is_leaving).map(|slot| (index, slot))
        })
    }

    /// What the granule keeps; empty if that is nothing.
    pub(super) fn remainder(&self) -> GranuleState {
        let mut after = self.before;
        for (slot, is_leaving) in after.slots.iter_mut().zip(self.is_leaving) {
            if is_leaving {
                *slot = None;
            }
        }
        if after.is_vacant() {
            after.form = Form::Empty;
        }
        after
    }
}

/// Pages that come home together: as many as a batch of mappings moves.
pub(crate) const MAX_HOME_MOVES: usize = BATCH * SLOTS;

/// A page on its way home.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HomeMove {
    pub(super) page: Gfn,
    /// The mapping whose slot it leaves, as a bounce page.
    pub(super) mapping: Mapping,
    /// Where it lies.
    pub(super) from: Hfn,
    /// Its twin, if it has none yet.
    pub(super) spare: Option<Hfn>,
}

/// A copy of a page while all are made equal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MergeCopy {
    pub(super) at: Hfn,
    /// Whether somebody may have written it since the last merge.
    pub(super) is_writable: bool,
    /// 0xff in each byte of the word under way that was taken from here.
    pub(super) diff: u64,
}
