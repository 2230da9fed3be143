//! Whole granules: four pages of one frame of guest RAM, in order and with one permission, that
//! nothing else maps.
//!
//! Most granules of large buffers are whole. Their pages are at home and have no copies, so nothing
//! is filled, broken or merged: mapping or unmapping such a granule takes an entry in each list
//! that names it, and no [`plan`](crate::granule::plan). What is done is what a plan would say,
//! which the tests of plans check. It is done in the phases of the batch. A batch's whole granules
//! are found while its changes are charged.

use oche_types::Invariant;
use oche_types::addr::{Gfn, HostGranule, SLOTS};
use oche_types::dart::entry::{Leaf, Permission};
use oche_types::event::{Event, Placement};
use oche_types::invariant;

use crate::granule::alias::{self, Mapping};
use crate::granule::state::{Form, GranuleState};
use crate::granule::work::WholeGranule;
use crate::granule::{Change, GranuleMapper, Requester};
use crate::host::{DomainId, Host};
use crate::mover::{NONE, PageState};

/// The frame and the permission of `wanted`, if it is four pages of one frame in order with one
/// permission.
#[inline]
pub(super) fn whole(wanted: &[Option<Leaf>; SLOTS]) -> Option<(HostGranule, Permission)> {
    let first = wanted.first().copied().flatten()?;
    let frame = first.page.home().frame();
    let is_whole = wanted.iter().enumerate().all(|(slot, leaf)| {
        leaf.is_some_and(|leaf| {
            leaf.page.home() == frame.page(slot)
                && leaf.permission == first.permission
                && leaf.whole_page
        })
    });
    (is_whole && !first.permission.is_none()).then_some((frame, first.permission))
}

impl GranuleMapper {
    /// The granule of `change`, of which nothing is mapped, and the states of its pages, if it is
    /// mapped as a whole.
    #[inline]
    pub(super) fn find_mapped_whole(
        &self,
        Change { granule, wanted }: &Change,
    ) -> Option<(WholeGranule, &[PageState; SLOTS])> {
        let (frame, permission) = whole(wanted)?;
        let pages = self.mover.frame(frame)?;
        let mapped = WholeGranule { granule: *granule, frame, permission };
        pages.iter().all(PageState::is_free).then_some((mapped, pages))
    }

    /// The granule of `change`, with state `before`, if it is unmapped as a whole.
    #[inline]
    pub(super) fn find_unmapped_whole(
        &self,
        change: &Change,
        before: &GranuleState,
    ) -> Option<WholeGranule> {
        let Form::Direct(frame) = before.form else { return None };
        if change.wants_pages() || before.slots.contains(&None) {
            return None;
        }
        let pages = self.mover.frame(frame)?;
        let permission = Permission::default();
        let unmapped = WholeGranule { granule: change.granule, frame, permission };
        pages.iter().all(alias::is_alone).then_some(unmapped)
    }

    /// Enters the mappings of a whole granule into the lists of its pages and into the granule map.
    /// Its hardware entry is stored later. Returns false, with nothing mapped, if there are no
    /// tables for it or the batch has mapped one of its pages.
    #[must_use]
    pub(super) fn link_whole(
        &mut self,
        host: &mut impl Host,
        requester: Requester,
        domain: DomainId,
        whole: &WholeGranule,
    ) -> bool {
        let WholeGranule { granule, frame, permission } = *whole;
        if self.prepare_tables(host, domain, granule).is_err() {
            return false;
        }
        let pages = self.mover.frame_mut(frame).must("the pages of a whole granule are guest RAM");
        if !pages.iter().all(PageState::is_free) {
            return false;
        }
        for (slot, page) in pages.iter_mut().enumerate() {
            invariant!(page.stays_home(), "a page that nothing maps is at home");
            page.mappings = alias::only(Mapping { domain, iova: granule.page(slot) });
        }
        self.update_state(domain, granule, |state| {
            invariant!(state.form == Form::Empty, "a whole granule is mapped in an empty one");
            *state = GranuleState::whole(frame, permission);
        });
        for slot in 0..SLOTS {
            let (at, page) = (requester.at(granule, slot), Gfn(frame.page(slot).0));
            host.event(Event::Map { at, page, permission, placement: Placement::Direct });
        }
        true
    }

    /// Removes a whole granule, which no device reaches any more, from its pages' lists and from
    /// the granule map.
    pub(super) fn unlink_whole(
        &mut self,
        host: &mut impl Host,
        requester: Requester,
        domain: DomainId,
        whole: &WholeGranule,
    ) {
        let WholeGranule { granule, frame, .. } = *whole;
        let pages = self.mover.frame_mut(frame).must("the pages of a whole granule are guest RAM");
        for (slot, page) in pages.iter_mut().enumerate() {
            let mapping = Mapping { domain, iova: granule.page(slot) };
            invariant!(
                page.mappings == alias::only(mapping),
                "nothing else maps the pages of a whole granule"
            );
            page.mappings = NONE;
        }
        self.update_state(domain, granule, |state| *state = GranuleState::EMPTY);
        for slot in 0..SLOTS {
            let page = Gfn(frame.page(slot).0);
            host.event(Event::Unmap { at: requester.at(granule, slot), page });
        }
    }
}
