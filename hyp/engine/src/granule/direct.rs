//! Direct granules: those whose pages lie at home in one frame, in order, so that hardware can
//! point there.
//!
//! Without windows that takes all four pages. With them it takes a run of neighbours, and the
//! hardware entry's window leaves out the rest of the frame, which may hold anything of the
//! guest's. A neighbour that fits widens the window, and one that goes from an end narrows it: an
//! entry is stored at once, and what a device does meanwhile is right under the old entry and the
//! new. A neighbour that does not fit has the granule relocated under the device
//! ([`GranuleMapper::migrate`]).
//!
//! That move costs more than composing at once, and a device that reads back what it wrote in that
//! moment may find what was there before. So a run that devices may write is left at home only
//! where no neighbour is to be expected; one that they only read has nothing to lose.
//! `docs/adr/0015-windows.md` has the reasons.

use oche_types::addr::{Gfn, Granule, HostGranule, SLOTS, SlotRun};
use oche_types::dart::entry::{Leaf, Permission};
use oche_types::event::{Event, Placement, Refusal};

use crate::granule::addition::put;
use crate::granule::alias::{MAX_ALIASES, Mapping};
use crate::granule::state::{Form, GranuleState, Slot};
use crate::granule::{Change, GranuleMapper, Requester, refuse};
use crate::host::{DomainId, Host};

/// Linux's allocator of IOVAs rounds sizes up to a power of two: a buffer of three pages has the
/// fourth for itself. Source: Linux 6.1 `drivers/iommu/iova.c`, `alloc_iova_fast`.
const PADDED_PAGES: usize = 3;

impl GranuleMapper {
    /// Maps what `wanted` newly wants in `granule` by pointing at its home, if all of it fits
    /// there. What can only be refused is taken out of `wanted`. `false`: what is left is for a
    /// frame of the pool.
    pub(super) fn add_direct(
        &mut self,
        host: &mut impl Host,
        requester: Requester,
        domain: DomainId,
        granule: Granule,
        wanted: &mut [Option<Leaf>; SLOTS],
        state: &mut GranuleState,
    ) -> bool {
        if matches!(state.form, Form::Relocated(_)) {
            return false;
        }
        let mut frame = self.direct_frame(host, domain, granule, state, wanted);
        if frame.is_none() && self.refuse_non_ram(host, requester, granule, state, wanted) {
            frame = self.direct_frame(host, domain, granule, state, wanted);
        }
        if let Some(frame) = frame {
            self.put_direct(host, requester, domain, granule, frame, wanted, state);
            return true;
        }
        if state.form == Form::Empty {
            return false;
        }
        let is_new = |slot: usize| state.slots.get(slot) == Some(&None);
        let new =
            wanted.iter().enumerate().filter_map(|(slot, leaf)| leaf.map(|leaf| (slot, leaf)));
        let mut new = new.filter(|(slot, _)| is_new(*slot)).peekable();
        match self
            .migrate_failed
            .iter()
            .find(|(migrate_failed, _)| *migrate_failed == granule)
            .map(|(_, reason)| *reason)
        {
            Some(reason) => new.for_each(|(slot, leaf)| {
                refuse(host, requester.at(granule, slot), leaf.page, reason)
            }),
            None if new.peek().is_some() => {
                self.to_migrate.push(Change { granule, wanted: *wanted })
            }
            None => {}
        }
        true
    }

    /// Refuses what is newly wanted and is not guest RAM: no frame of the pool can hold it. Whether
    /// there was any.
    fn refuse_non_ram(
        &self,
        host: &mut impl Host,
        requester: Requester,
        granule: Granule,
        state: &GranuleState,
        wanted: &mut [Option<Leaf>; SLOTS],
    ) -> bool {
        let mut found = false;
        for (index, (wanted, slot)) in wanted.iter_mut().zip(state.slots).enumerate() {
            let Some(leaf) = wanted.filter(|leaf| slot.is_none() && !self.mover.is_ram(leaf.page))
            else {
                continue;
            };
            refuse(host, requester.at(granule, index), leaf.page, Refusal::NotGuestMemory);
            (*wanted, found) = (None, true);
        }
        found
    }

    /// The frame that hardware can point at for everything in `state` and `wanted`, if there is one
    /// and it is wise.
    fn direct_frame(
        &self,
        host: &impl Host,
        domain: DomainId,
        granule: Granule,
        state: &GranuleState,
        wanted: &[Option<Leaf>; SLOTS],
    ) -> Option<HostGranule> {
        let run = SlotRun::around(wanted.map(|leaf| leaf.is_some()))?;
        let first = wanted.get(run.first()).copied().flatten()?;
        let frame = first.page.home().frame();
        let has_place = |page: Gfn| {
            self.mover.is_ram(page) && self.mover.is_home(page) && !self.mover.is_broken(page)
        };
        let is_in_order = wanted.iter().enumerate().all(|(slot, leaf)| match leaf {
            Some(leaf) => {
                leaf.page.slot() == slot
                    && leaf.page.home().frame() == frame
                    && has_place(leaf.page)
            }
            None => !run.contains(slot),
        });
        if !is_in_order || !self.is_uniform(wanted) {
            return None;
        }
        let is_wise = match state.form {
            Form::Direct(old) => old == frame,
            Form::Relocated(_) => false,
            Form::Empty if run == SlotRun::ALL => true,
            Form::Empty => {
                host.has_windows() && self.expects_no_neighbour(domain, granule, frame, run, wanted)
            }
        };
        is_wise.then_some(frame)
    }

    /// Whether a run can be left at home: a neighbour that does not fit there would do no harm, or
    /// is unlikely.
    fn expects_no_neighbour(
        &self,
        domain: DomainId,
        granule: Granule,
        frame: HostGranule,
        run: SlotRun,
        wanted: &[Option<Leaf>; SLOTS],
    ) -> bool {
        let all = wanted
            .iter()
            .flatten()
            .fold(Permission::default(), |all, leaf| all.union(leaf.permission));
        if !all.write {
            return true;
        }
        let before = granule.0.checked_sub(1).map(|before| self.state(domain, Granule(before)));
        let is_tail = before.is_some_and(|before| {
            before.slots.last().is_some_and(Option::is_some)
                && frame
                    .0
                    .checked_sub(1)
                    .is_some_and(|frame| before.form == Form::Direct(HostGranule(frame)))
        });
        run.first() == 0 && (run.last() + 1 >= PADDED_PAGES || is_tail)
    }

    /// Links everything that is newly `wanted`, or, where one mapping has no room in the granule
    /// map, nothing: a window has no holes.
    #[expect(clippy::too_many_arguments, reason = "one step of a plan, named")]
    fn put_direct(
        &mut self,
        host: &mut impl Host,
        requester: Requester,
        domain: DomainId,
        granule: Granule,
        frame: HostGranule,
        wanted: &[Option<Leaf>; SLOTS],
        state: &mut GranuleState,
    ) {
        let mut after = GranuleState { form: Form::Direct(frame), ..*state };
        for (index, leaf) in wanted.iter().enumerate() {
            let Some(leaf) = leaf.filter(|_| state.slots.get(index) == Some(&None)) else {
                continue;
            };
            let at = requester.at(granule, index);
            if let Err(reason) = self.link(domain, at, leaf.page, MAX_ALIASES) {
                self.unlink_new(domain, granule, state, &after);
                for (index, leaf) in wanted.iter().enumerate() {
                    if let Some(leaf) = leaf.filter(|_| state.slots.get(index) == Some(&None)) {
                        refuse(host, requester.at(granule, index), leaf.page, reason);
                    }
                }
                self.release_unused(domain, granule);
                return;
            }
            let (page, permission) = (leaf.page, leaf.permission);
            put(&mut after, at, Slot { page, permission, is_bounce: false, is_filled: true });
        }
        for (index, slot) in after.slots.iter().enumerate() {
            if let Some(slot) = slot.filter(|_| state.slots.get(index) == Some(&None)) {
                let (at, page, permission) =
                    (requester.at(granule, index), slot.page, slot.permission);
                // Copies that devices wrote become equal with every mapping that comes, whatever
                // its place.
                self.equalize_once(host, page);
                host.event(Event::Map { at, page, permission, placement: Placement::Direct });
            }
        }
        *state = after;
        self.set_state(domain, granule, after);
    }

    /// Unlinks what `after` has and `before` has not.
    fn unlink_new(
        &mut self,
        domain: DomainId,
        granule: Granule,
        before: &GranuleState,
        after: &GranuleState,
    ) {
        for (index, slot) in after.slots.iter().enumerate() {
            let Some(slot) = slot.filter(|_| before.slots.get(index) == Some(&None)) else {
                continue;
            };
            let mapping = Mapping { domain, iova: granule.page(index) };
            self.aliases.remove(&mut self.mover.state_mut(slot.page).mappings, mapping);
        }
    }
}

/// Whether the mapped slots of `state` are neighbours, without a hole between them.
pub(super) fn is_run(state: &GranuleState) -> bool {
    let Some(run) = SlotRun::around(state.slots.map(|slot| slot.is_some())) else { return false };
    state.slots.iter().enumerate().all(|(index, slot)| slot.is_some() || !run.contains(index))
}
