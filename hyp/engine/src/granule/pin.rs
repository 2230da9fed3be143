//! Pages that an untranslated bus master uses now: at home, and kept there until it has done with
//! them.
//!
//! Such a master (an M1's NVMe) addresses memory physically, so a page that it names must be at
//! home, also where a DART maps it and it is away. It comes home, and what stays in its slot is a
//! bounce page, which devices go on using: nothing of the hardware's tables changes. While the page
//! is pinned it has a twin, whatever its bounce pages are, because it is written at home by
//! a master that does not trap: what differs from the twin is found whenever the copies are made
//! equal, at the latest when the page is unpinned.

use oche_types::addr::Gfn;
use oche_types::event::{Event, Refusal};
use oche_types::{Invariant, invariant};

use crate::granule::alias::Mapping;
use crate::granule::state::{Form, Slot};
use crate::granule::work::{HomeMove, MAX_HOME_MOVES};
use crate::granule::{Change, GranuleMapper, Requester, refuse};
use crate::host::Host;

impl GranuleMapper {
    /// Has each of `pages` be at home, with all that devices wrote, until as many calls of
    /// [`Self::unpin`] follow. What is not guest RAM is passed over. Pages that are away come home
    /// together, up to [`MAX_HOME_MOVES`] with one break-before-make.
    pub(crate) fn pin(&mut self, host: &mut impl Host, pages: &[Gfn]) {
        for page in pages {
            // What is moving was named before, and comes home with the rest.
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

    /// Begins to bring `page` home, from the slot of the mapping that it is.
    fn start_home_move(&mut self, host: &mut impl Host, page: Gfn) {
        host.event(Event::Fetched { page, from: self.mover.locate(page) });
        let primary = self.mappings(page).find_map(|mapping| {
            let (slot, form, at) = self.slot_of(mapping);
            (!slot.is_bounce && matches!(form, Form::Relocated(_))).then_some((mapping, at))
        });
        let (mapping, from) = primary.must("a page that is away lies in a slot of its own");
        let spare = if self.twin(page).is_none() { self.pool.take_page() } else { None };
        if self.twin(page).is_none() && spare.is_none() {
            // Makes all that is broken again, so that must have come home.
            self.finish_home_moves(host);
            self.refuse_mapping(host, page, mapping);
            return self.ensure_twin(host, page);
        }
        // It is away, so it has an entry of its own.
        self.mover.break_page(host, page);
        self.home_moves.push(HomeMove { page, mapping, from, spare });
        if self.home_moves.len() == MAX_HOME_MOVES {
            self.finish_home_moves(host);
        }
    }

    /// Makes the copies of `page`, which is at home, equal, and able to become so again: what the
    /// master writes there must come to the bounce pages, and what is written there to it.
    fn ensure_twin(&mut self, host: &mut impl Host, page: Gfn) {
        if self.twin(page).is_none() && self.bounce_pages(page).next().is_some() {
            match self.pool.take_page() {
                Some(twin) => self.create_twin(host, page, twin),
                None => {
                    // Makes all that is broken again, so that must have come home.
                    self.finish_home_moves(host);
                    self.drop_all_bounce_pages(host, page);
                }
            }
        }
        self.merge_copies(host, page);
    }

    /// The master has done with `page`.
    pub(crate) fn unpin(&mut self, host: &mut impl Host, page: Gfn) {
        if self.mover.unpin(page) {
            self.merge_copies(host, page);
            self.drop_unneeded_twin(host, page);
        }
    }

    /// Brings all pages home that [`Self::start_home_move`] took out of the CPUs' reach.
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
        // From the twin, not from the slot as it is by now: what a device wrote since must differ
        // from it.
        invariant!(
            from == self.mover.locate(page),
            "a page on its way home lies where it lay: {page:?}"
        );
        let from = self.twin(page).must("a page on its way home has a twin");
        host.copy_page(from, page.home());
        self.mover.place(host, page, page.home());
        let mut state = self.state(mapping.domain, mapping.iova.granule());
        let slot = state.mapped_mut(mapping.iova.slot());
        (slot.is_bounce, slot.is_filled) = (true, true);
        self.set_state(mapping.domain, mapping.iova.granule(), state);
    }

    /// Without memory for a twin the two cannot both have the page: `mapping` is refused, and the
    /// page goes home.
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
