//! The work items of a batch: pages to copy, granules to unmap from, pages to move home, copies to
//! merge. They are plain data in lists of fixed capacity, so that nothing is allocated in a trap.

use oche_types::addr::{Gfn, Granule, Hfn, HostGranule, SLOTS, SlotRun};
use oche_types::dart::entry::Permission;
use oche_types::event::Place;

use crate::granule::alias::Mapping;
use crate::granule::state::{Form, GranuleState, Slot};
use crate::host::Iommu;

/// Most granules in one batch. It is small because the pages of a batch are broken at the same
/// time.
pub(crate) const BATCH: usize = 64;

/// A copy of a page into a slot of a frame of the pool, or home.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageCopy {
    pub(super) at: Place,
    pub(super) page: Gfn,
    pub(super) to: Hfn,
    /// What the device may do with the slot.
    pub(super) permission: Permission,
    pub(super) kind: CopyKind,
    /// Whether devices could reach the slot before.
    pub(super) is_reached: bool,
}

/// What a copy of a page is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyKind {
    /// The page itself moves into the slot.
    Move,
    /// The slot becomes a bounce page.
    Bounce,
    /// The page moves home and its slot becomes a bounce page, before devices may write the
    /// granule.
    Demote,
    /// The slot becomes a bounce page that a device may write, and the page gets this twin.
    WithTwin(Hfn),
}

/// A whole granule that a batch maps or unmaps.
#[derive(Clone, Copy, Debug)]
pub(super) struct WholeGranule {
    pub(super) granule: Granule,
    pub(super) frame: HostGranule,
    /// The permission with which it is mapped; none if it is unmapped.
    pub(super) permission: Permission,
}

impl WholeGranule {
    pub(super) fn is_mapped(&self) -> bool {
        !self.permission.is_none()
    }

    /// The hardware entry that maps it.
    pub(super) fn entry(&self, iommu: &impl Iommu) -> u64 {
        iommu.leaf_entry(self.frame, self.permission, SlotRun::ALL)
    }
}

/// A granule from which pages are unmapped.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnmapOp {
    pub(super) granule: Granule,
    /// Its state before the batch.
    pub(super) before: GranuleState,
    /// Its state afterwards.
    pub(super) after: GranuleState,
    /// The slots that are unmapped.
    leaving: [Option<Slot>; SLOTS],
    /// For a direct granule that keeps pages: the frame that they move to.
    pub(super) split: Option<SplitFrame>,
}

/// The move of the other pages of a direct granule to a frame of the pool. `copied` holds their
/// bytes as they were when they were copied there, for those that devices may write.
#[derive(Clone, Copy, Debug)]
pub(super) struct SplitFrame {
    pub(super) frame: HostGranule,
    pub(super) copied: [Option<Hfn>; SLOTS],
}

impl UnmapOp {
    /// The slots in `is_leaving` of `granule`, which has state `before`, are unmapped, and the
    /// others move to the frame of `split` if there is one.
    pub(super) fn new(
        (granule, before): (Granule, &GranuleState),
        is_leaving: [bool; SLOTS],
        split: Option<SplitFrame>,
    ) -> Self {
        let (mut after, mut leaving) = (*before, [None; SLOTS]);
        for ((slot, leaving), is_leaving) in
            after.slots.iter_mut().zip(&mut leaving).zip(is_leaving)
        {
            if is_leaving {
                *leaving = slot.take();
            }
        }
        if let Some(split) = split {
            after.form = Form::Relocated(split.frame);
        } else if after.is_vacant() {
            after.form = Form::Empty;
        }
        Self { granule, before: *before, after, leaving, split }
    }

    /// The slots that are unmapped, with their indices.
    pub(super) fn leaving(&self) -> impl Iterator<Item = (usize, &Slot)> {
        mapped(&self.leaving)
    }

    /// The slots that stay mapped, with their indices.
    pub(super) fn kept(&self) -> impl Iterator<Item = (usize, &Slot)> {
        mapped(&self.after.slots)
    }
}

/// Those of `slots` that are mapped, with their indices.
fn mapped(slots: &[Option<Slot>; SLOTS]) -> impl Iterator<Item = (usize, &Slot)> {
    slots.iter().enumerate().filter_map(|(index, slot)| Some((index, slot.as_ref()?)))
}

/// Most pages that move home together: as many as a batch moves.
pub(crate) const MAX_HOME_MOVES: usize = BATCH * SLOTS;

/// The move of a page home, to be pinned there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HomeMove {
    pub(super) page: Gfn,
    /// The mapping whose slot becomes a bounce page.
    pub(super) mapping: Mapping,
    /// The host page of that slot.
    pub(super) from: Hfn,
    /// A page for the twin, if the page has none yet.
    pub(super) spare: Option<Hfn>,
}

/// A copy of a page in a merge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MergeCopy {
    pub(super) at: Hfn,
    /// Whether it may have been written since the last merge.
    pub(super) is_writable: bool,
    /// 0xff in each byte of the current word in which this copy differs and was read.
    pub(super) diff: u64,
}
