//! Pinned pages: an untranslated bus master uses them, so they stay at home.
//!
//! Such a master (an M1's NVMe) addresses memory physically. A page that it uses must be at home,
//! even if a DART maps the page and it has migrated. The page moves home, and its slot becomes a
//! bounce page, which devices continue to use: the hardware's tables do not change. A pinned page
//! with bounce pages has a twin, because the master writes the page at home without a trap. Making
//! the copies equal finds what it wrote, at the latest when the use that wrote it ends.

use oche_types::addr::Gfn;
use oche_types::event::{Event, Refusal};
use oche_types::{Invariant, invariant};

use crate::granule::alias::Mapping;
use crate::granule::state::{Form, Slot};
use crate::granule::work::{HomeMove, MAX_HOME_MOVES};
use crate::granule::{Change, GranuleMapper, Requester, refuse};
use crate::host::Host;

impl GranuleMapper {
    /// Pins each of `pages` that is guest RAM: keeps it at home, with all that devices wrote, until
    /// as many calls of [`Self::unpin`] follow. Up to [`MAX_HOME_MOVES`] pages move home with one
    /// break-before-make.
    pub(crate) fn pin(&mut self, host: &mut impl Host, pages: &[Gfn]) {
        for page in pages {
            // A broken page is in `pages` twice and already in the list of home moves.
            if !self.mover.pin(*page) || self.mover.is_broken(*page) {
                continue;
            }
            if self.mover.is_home(*page) {
                self.ensure_twin(host, *page);
            } else {
                self.start_home_move(host, *page);
            }
        }
        self.finish_home_moves(host);
    }

    /// Breaks `page`, which is away, and adds its move to the list of home moves.
    fn start_home_move(&mut self, host: &mut impl Host, page: Gfn) {
        host.event(Event::Fetched { page, from: self.mover.locate(page) });
        let primary = self.mappings(page).find_map(|mapping| {
            let (slot, form, at) = self.slot_of(mapping);
            (!slot.is_bounce && matches!(form, Form::Relocated(_))).then_some((mapping, at))
        });
        let (mapping, from) = primary.must("a page that is away is in a slot of its own");
        let spare = if self.twin(page).is_none() { self.pool.take_page() } else { None };
        if self.twin(page).is_none() && spare.is_none() {
            // This remaps all broken pages, so the moves under way must be complete.
            self.finish_home_moves(host);
            self.refuse_mapping(host, page, mapping);
            return self.ensure_twin(host, page);
        }
        // The page is away, so it has a stage-2 entry of its own.
        self.mover.break_page(host, page);
        self.home_moves.push(HomeMove { page, mapping, from, spare });
        if self.home_moves.len() == MAX_HOME_MOVES {
            self.finish_home_moves(host);
        }
    }

    /// Makes the copies of `page`, which is at home, equal, and gives it a twin if it has bounce
    /// pages, so that what the master writes can be merged later.
    fn ensure_twin(&mut self, host: &mut impl Host, page: Gfn) {
        if self.twin(page).is_none() && self.bounce_pages(page).next().is_some() {
            match self.pool.take_page() {
                Some(twin) => self.create_twin(host, page, twin),
                None => {
                    // This remaps all broken pages, so the moves under way must be complete.
                    self.finish_home_moves(host);
                    self.drop_all_bounce_pages(host, page);
                }
            }
        }
        self.merge_copies(host, page);
    }

    /// Ends one use of `page` by the master.
    pub(crate) fn unpin(&mut self, host: &mut impl Host, page: Gfn) {
        let is_last = self.mover.unpin(page);
        self.merge_copies(host, page);
        if is_last {
            self.drop_unneeded_twin(host, page);
        }
    }

    /// Moves all pages home that [`Self::start_home_move`] broke, and remaps them.
    fn finish_home_moves(&mut self, host: &mut impl Host) {
        let mut home_moves = core::mem::take(&mut self.home_moves);
        self.mover.flush_tlb(host);
        for home_move in &home_moves {
            self.finish_home_move(host, home_move);
        }
        self.remap_pages(host);
        home_moves.clear();
        self.home_moves = home_moves;
    }

    fn finish_home_move(&mut self, host: &mut impl Host, home_move: &HomeMove) {
        let HomeMove { page, mapping, from, spare } = *home_move;
        match spare {
            Some(twin) => self.create_twin(host, page, twin),
            None => self.merge_copies(host, page),
        }
        invariant!(
            from == self.mover.locate(page),
            "a page that moves home has not moved since it was broken: {page:?}"
        );
        // Copied from the twin, not from the slot: what a device has written there since the merge
        // must differ from the page.
        let from = self.twin(page).must("a page that moves home has a twin");
        host.copy_page(from, page.home());
        self.mover.place(host, page, page.home());
        let mut state = *self.state(mapping.domain, mapping.iova.granule());
        let slot = state.mapped_mut(mapping.iova.slot());
        (slot.is_bounce, slot.is_filled) = (true, true);
        self.set_state(mapping.domain, mapping.iova.granule(), &state);
    }

    /// Refuses `mapping` of `page`, so that the page moves home, because the pool has no memory for
    /// a twin.
    fn refuse_mapping(&mut self, host: &mut impl Host, page: Gfn, mapping: Mapping) {
        let granule = mapping.iova.granule();
        let state = self.state(mapping.domain, granule);
        let mut change = Change { granule, wanted: state.slots.map(|slot| slot.map(Slot::leaf)) };
        *change.wanted.get_mut(mapping.iova.slot()).must("a granule has four slots") = None;
        let requester = Requester::of(&self.placed(mapping.domain).members);
        self.remove(host, requester, mapping.domain, &[change]);
        refuse(host, requester.at(granule, mapping.iova.slot()), page, Refusal::PoolExhausted);
    }
}
