//! Direct granules: their pages are at home in one frame, in order, so that the hardware entry can
//! point at that frame.
//!
//! Without windows, all four pages are needed. With windows, a run of adjacent pages is enough: the
//! entry's window excludes the other pages of the frame, which may belong to anything in the guest.
//! A new neighbour that fits widens the window, and one unmapped at an end narrows it. The entry
//! changes with one store, and what a device does meanwhile is correct under both entries. If a new
//! neighbour does not fit, the granule is relocated while devices use it
//! ([`GranuleMapper::migrate`]).
//!
//! That live move costs more than relocating at the first mapping, and a device that reads back
//! what it wrote during the move may read the old value. A run that devices may write is therefore
//! direct only if no further neighbour is expected. A run that they only read always is. The
//! reasons are in `docs/adr/0015-windows.md`.

use oche_types::addr::{Granule, HostGranule, SLOTS, SlotRun};
use oche_types::dart::entry::{Leaf, Permission};
use oche_types::event::{Event, Placement, Refusal};

use crate::granule::addition::put;
use crate::granule::alias::{MAX_ALIASES, Mapping};
use crate::granule::state::{Form, GranuleState, Slot};
use crate::granule::{Change, GranuleMapper, Requester, refuse};
use crate::host::{DomainId, Host};

/// A run of so many pages gets no neighbour: Linux's IOVA allocator rounds sizes up to a power of
/// two, so nothing else is mapped in the fourth page. Source: Linux 6.1 `drivers/iommu/iova.c`,
/// `alloc_iova_fast`.
const PADDED_PAGES: usize = 3;

impl GranuleMapper {
    /// Maps the new pages in `wanted` directly if all pages of `granule` fit into one frame at
    /// home. Removes from `wanted` what can only be refused. Returns false if what is left needs a
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
            .find(|(failed, _)| *failed == granule)
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

    /// Refuses new pages that are not guest RAM: they cannot move into a frame of the pool. Returns
    /// whether there was any.
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

    /// The frame that a direct entry for `state` and `wanted` would point at, if there is one and a
    /// direct entry is worthwhile.
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
        let is_in_order = wanted.iter().enumerate().all(|(slot, leaf)| match leaf {
            Some(leaf) => {
                leaf.page.slot() == slot
                    && leaf.page.home().frame() == frame
                    && self.mover.stays_home(leaf.page)
            }
            None => !run.contains(slot),
        });
        if !is_in_order || !self.is_uniform(wanted) {
            return None;
        }
        let is_worthwhile = match state.form {
            Form::Direct(old) => old == frame,
            Form::Relocated(_) => false,
            Form::Empty if run == SlotRun::ALL => true,
            Form::Empty => {
                host.has_windows() && self.expects_no_neighbour(domain, granule, frame, run, wanted)
            }
        };
        is_worthwhile.then_some(frame)
    }

    /// Whether a run of pages can stay at home: either a later neighbour that does not fit would do
    /// no harm, or none is expected.
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

    /// Makes all new mappings in `wanted`, or none if one of them has no room in its page's list: a
    /// window has no holes.
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
                // Copies that devices wrote are made equal with each new mapping, a direct one
                // included.
                self.equalize_once(host, page);
                host.event(Event::Map { at, page, permission, placement: Placement::Direct });
            }
        }
        *state = after;
        self.set_state(domain, granule, after);
    }

    /// Unlinks the mappings of `after` that `before` does not have.
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

/// Whether the mapped slots of `state` are adjacent.
pub(super) fn is_run(state: &GranuleState) -> bool {
    let Some(run) = SlotRun::around(state.slots.map(|slot| slot.is_some())) else { return false };
    state.slots.iter().enumerate().all(|(index, slot)| slot.is_some() || !run.contains(index))
}
