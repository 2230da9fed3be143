//! The first half of a batch: what the guest no longer maps.

use alloc::vec::Vec;

use oche_types::addr::{Frame, Gfn, Granule, Hfn, SLOTS};
use oche_types::event::{Event, Refusal};
use oche_types::invariant;

use crate::granule::alias::Mapping;
use crate::granule::book::{Form, Record, Slot};
use crate::granule::copies::bring_forward;
use crate::granule::direct;
use crate::granule::{BATCH, Cause, Change, Placement, refuse};
use crate::heap::bytes_of;
use crate::host::{DomainId, Host};
use crate::pool::RED_ZONE;

/// Lists of the removal under way, kept so that nothing is allocated while a guest waits.
#[derive(Debug)]
pub(crate) struct Work {
    departures: Vec<Departure>,
}

impl Work {
    pub(crate) fn new() -> Self {
        Self { departures: Vec::with_capacity(BATCH) }
    }

    /// Bytes of heap that it takes.
    pub(crate) const BYTES: usize = bytes_of::<Departure>(BATCH);
}

/// A granule that loses pages.
#[derive(Clone, Copy, Debug)]
struct Departure {
    granule: Granule,
    /// As it was before the batch.
    before: Record,
    /// Whether each slot is about to be emptied.
    is_leaving: [bool; SLOTS],
    /// For a direct granule that keeps pages: the frame that they go to.
    split: Option<Split>,
}

/// Where the rest of a direct granule goes, and what it held when it was copied there.
#[derive(Clone, Copy, Debug)]
struct Split {
    frame: Frame,
    copied: [Option<Hfn>; SLOTS],
}

impl Placement {
    /// Takes away every mapping that `changes` no longer wants as it is.
    pub(super) fn remove(
        &mut self,
        host: &mut impl Host,
        cause: Cause,
        domain: DomainId,
        changes: &[Change],
    ) {
        let mut departures = core::mem::take(&mut self.work.departures);
        departures.clear();
        for change in changes {
            let before = self.record(domain, change.granule);
            let is_leaving = leaving(&before, change, self.is_strict());
            if is_leaving.contains(&true) {
                let mut departure = Departure { granule: change.granule, before, is_leaving, split: None };
                self.plan_split(host, cause, &mut departure);
                departures.push(departure);
            }
        }
        self.depart(host, cause, domain, &mut departures);
        self.work.departures = departures;
    }

    /// Moves what direct granules hold into frames of their own, while devices go on using it, so that what `changes`
    /// want beside it has room. Where that cannot be, the granule stays as it is, and `stuck` says why.
    pub(super) fn recompose(
        &mut self,
        host: &mut impl Host,
        cause: Cause,
        domain: DomainId,
        changes: &[Change],
    ) {
        let mut departures = core::mem::take(&mut self.work.departures);
        departures.clear();
        for change in changes {
            let before = self.record(domain, change.granule);
            let (granule, is_leaving) = (change.granule, [false; SLOTS]);
            let mut departure = Departure { granule, before, is_leaving, split: None };
            match self.room_for_split(host, &departure, before.permission().write) {
                Ok(split) => {
                    departure.split = Some(split);
                    departures.push(departure);
                }
                Err(reason) => self.stuck.push((granule, reason)),
            }
        }
        self.depart(host, cause, domain, &mut departures);
        self.work.departures = departures;
    }

    /// Carries out the `departures`.
    fn depart(&mut self, host: &mut impl Host, cause: Cause, domain: DomainId, departures: &mut [Departure]) {
        if !departures.is_empty() {
            for departure in &*departures {
                self.break_pages(host, departure);
            }
            self.mover.flush_tlb(host);
            for departure in &*departures {
                self.fill_split(host, departure);
            }
            if departures.iter().any(|departure| departure.split.is_some()) {
                // The bytes come before the entries that show them to devices.
                host.publish();
            }
            for departure in &*departures {
                self.unmap(host, domain, departure);
            }
            // Even where no entry changed: only this makes sure that what a device wrote has landed.
            self.invalidate(host, domain);
            for departure in &*departures {
                self.settle_split(host, cause, domain, departure);
            }
            // What devices wrote is brought together once, while all copies are known.
            for (_, slot) in departures.iter().flat_map(Departure::leaving) {
                if self.list(slot.page) {
                    self.equalize(host, slot.page);
                }
            }
            // Every mapping goes before any page does: a page must not flee to a slot that goes as well.
            for departure in &*departures {
                self.unlink_leaving(host, cause, domain, departure);
            }
            let leaving = core::mem::take(&mut self.listed);
            for page in &leaving {
                self.send_leaving(host, *page);
            }
            self.listed = leaving;
            self.unlist_all();
            for departure in &*departures {
                self.mark_leaving(host, departure);
            }
            self.remap_pages(host);
        }
    }

    /// Finds room for what a direct granule keeps, unless a narrower window is all that it needs. Where there is none,
    /// everything leaves.
    fn plan_split(&mut self, host: &mut impl Host, cause: Cause, departure: &mut Departure) {
        let Form::Direct(_) = departure.before.form else { return };
        let after = remainder(departure);
        if after.is_vacant() || (host.has_windows() && direct::is_run(&after)) {
            return;
        }
        let is_written = departure.before.permission().write;
        match self.room_for_split(host, departure, is_written) {
            Ok(split) => departure.split = Some(split),
            Err(reason) => {
                let slots = departure.before.slots.iter().enumerate();
                for (slot, kept) in slots.filter(|(slot, _)| departure.is_leaving.get(*slot) == Some(&false))
                {
                    let page = kept.map_or(Gfn(0), |kept| kept.page);
                    refuse(host, cause.at(departure.granule, slot), page, reason);
                }
                departure.is_leaving = [true; SLOTS];
            }
        }
    }

    fn room_for_split(
        &mut self,
        host: &mut impl Host,
        departure: &Departure,
        is_written: bool,
    ) -> Result<Split, Refusal> {
        for (slot, kept) in departure.before.slots.iter().enumerate() {
            if departure.is_leaving.get(slot) == Some(&false)
                && let Some(kept) = kept
            {
                if !self.mover.is_ram(kept.page) {
                    return Err(Refusal::DeviceNotDirect);
                }
                self.mover.prepare(host, kept.page).map_err(|_| Refusal::OutOfStage2Tables)?;
            }
        }
        let frame = self.pool.take_frame().ok_or(Refusal::PoolExhausted)?;
        let mut split = Split { frame, copied: [None; SLOTS] };
        for (slot, copied) in split.copied.iter_mut().enumerate() {
            let page = departure.before.slots.get(slot).copied().flatten().map(|slot| slot.page);
            let is_written = is_written || page.is_some_and(|page| self.mover.is_pinned(page));
            if is_written && departure.is_leaving.get(slot) == Some(&false) && page.is_some() {
                *copied = self.pool.take_page();
                if copied.is_none() {
                    for page in split.copied.into_iter().flatten() {
                        self.pool.give_page(host, page);
                    }
                    self.pool.give_marked_frame(host, frame);
                    return Err(Refusal::PoolExhausted);
                }
            }
        }
        Ok(split)
    }

    /// Breaks every page of the departure whose bytes are about to change place.
    fn break_pages(&mut self, host: &mut impl Host, departure: &Departure) {
        for (slot, is_leaving) in departure.before.slots.iter().zip(departure.is_leaving) {
            let Some(slot) = slot.filter(|slot| !slot.is_replica) else { continue };
            let moves = match departure.before.form {
                // Home, or to a replica.
                Form::Composed(_) => is_leaving,
                // At home, a replica may become the page.
                Form::Direct(_) if is_leaving => self.mappings(slot.page).nth(1).is_some(),
                // Into the split's frame, if there is one.
                Form::Direct(_) => departure.split.is_some(),
                Form::Empty => false,
            };
            // Where stage 2 has no entry to spare the page stays at home: a replica goes on being one.
            if moves && self.mover.prepare(host, slot.page).is_ok() {
                self.mover.break_page(host, slot.page);
            }
        }
    }

    /// Copies what a split granule keeps to its new frame.
    fn fill_split(&self, host: &mut impl Host, departure: &Departure) {
        let Some(split) = departure.split else { return };
        for (slot, kept) in remainder(departure).slots.iter().enumerate() {
            let Some(kept) = kept else { continue };
            host.copy_page(self.mover.locate(kept.page), split.frame.page(slot));
            if let Some(Some(copied)) = split.copied.get(slot) {
                host.copy_page(split.frame.page(slot), *copied);
            }
        }
    }

    /// Takes the departure out of the hardware's tables, or points them at a split granule's new frame.
    fn unmap(&mut self, host: &mut impl Host, domain: DomainId, departure: &Departure) {
        let mut after = remainder(departure);
        if let Some(split) = departure.split {
            after.form = Form::Composed(split.frame);
        }
        self.set_entry(host, domain, departure.granule, &after);
    }

    /// The hardware has drained: brings along what devices wrote into a split granule's pages at home
    /// after they were copied, and lets CPUs find the pages in the new frame.
    fn settle_split(&mut self, host: &mut impl Host, cause: Cause, domain: DomainId, departure: &Departure) {
        let Some(split) = departure.split else { return };
        let mut after = remainder(departure);
        after.form = Form::Composed(split.frame);
        // First the book: the granule is no longer one that pins its pages at home.
        self.set_record(domain, departure.granule, after);
        let mut merged_bytes = 0;
        for (index, slot) in after.slots.iter_mut().enumerate() {
            let Some(kept) = slot else { continue };
            let home = self.mover.locate(kept.page);
            let to = split.frame.page(index);
            let copied = split.copied.get(index).copied().flatten();
            if let Some(copied) = copied {
                merged_bytes += bring_forward(host, copied, home, to, true) as u32;
            }
            kept.is_replica = self.is_mapped_at_home(kept.page) || self.mover.is_pinned(kept.page);
            if kept.is_replica {
                // Another granule reaches it at home; what went into this frame so far comes home too.
                if let Some(copied) = copied {
                    bring_forward(host, copied, to, home, false);
                }
            } else {
                self.mover.place(host, kept.page, to);
            }
        }
        self.set_record(domain, departure.granule, after);
        for (slot, copied) in after.slots.iter().zip(split.copied) {
            let Some(copied) = copied else { continue };
            match slot {
                Some(slot) if slot.is_replica => self.adopt_replica(host, slot, copied),
                _ => self.pool.give_page(host, copied),
            }
        }
        host.event(Event::LiveMove { at: cause.at(departure.granule, 0), to: split.frame, merged_bytes });
    }

    /// Gives a page at home and out of the CPUs' reach, of which `slot` just became a replica, the base
    /// `spare` if it needs one.
    fn adopt_replica(&mut self, host: &mut impl Host, slot: &Slot, spare: Hfn) {
        let is_written = slot.permission.write || self.mover.is_pinned(slot.page);
        if self.base(slot.page).is_some() || !is_written {
            self.pool.give_page(host, spare);
        } else {
            host.copy_page(self.mover.locate(slot.page), spare);
            self.mover.record_mut(slot.page).base = spare.0;
        }
        self.merge_copies(host, slot.page);
    }

    /// Takes every leaving mapping off the books.
    fn unlink_leaving(
        &mut self,
        host: &mut impl Host,
        cause: Cause,
        domain: DomainId,
        departure: &Departure,
    ) {
        self.check_red_zones(host, cause, departure.granule, &departure.before);
        for (index, slot) in departure.leaving() {
            let mapping = Mapping { domain, iova: departure.granule.page(index) };
            // A device's page has no record.
            if let Some(record) = self.mover.get_mut(slot.page) {
                self.aliases.remove(&mut record.mappings, mapping);
            }
            self.unfollow_if_single(slot.page);
            host.event(Event::Unmap { at: cause.at(departure.granule, index), page: slot.page });
        }
        if departure.split.is_none() {
            self.set_record(domain, departure.granule, remainder(departure));
        }
    }

    /// Sends `page`, of which a mapping left, home or to where it is still mapped.
    fn send_leaving(&mut self, host: &mut impl Host, page: Gfn) {
        self.promote(host, page);
        self.send_home(host, page);
        self.drop_unneeded_base(host, page);
    }

    /// Reports that what the last removal took away was refused, after all.
    pub(super) fn refuse_departed(&mut self, host: &mut impl Host, cause: Cause, reason: Refusal) {
        for departure in &self.work.departures {
            for (slot, left) in departure.leaving() {
                refuse(host, cause.at(departure.granule, slot), left.page, reason);
            }
        }
    }

    /// Marks the slots that were left, and gives back a frame of which nothing is mapped any more.
    fn mark_leaving(&mut self, host: &mut impl Host, departure: &Departure) {
        let Form::Composed(frame) = departure.before.form else { return };
        for (index, _) in departure.leaving() {
            host.fill_page(frame.page(index), RED_ZONE);
        }
        if remainder(departure).is_vacant() {
            self.pool.give_marked_frame(host, frame);
        }
    }

    /// Brings `page`, whose copies are equal, home if nothing maps it but copies that it cannot become.
    fn send_home(&mut self, host: &mut impl Host, page: Gfn) {
        if self.has_only_replicas(page) && !self.mover.is_home(page) {
            invariant!(self.mover.can_move(page), "a page goes home only out of the CPUs' reach: {page:?}");
            host.copy_page(self.mover.locate(page), page.home());
            self.mover.place(host, page, page.home());
        }
    }
}

impl Departure {
    /// The slots that are about to be emptied, with what is in them.
    fn leaving(&self) -> impl Iterator<Item = (usize, Slot)> {
        let slots = self.before.slots.into_iter().zip(self.is_leaving).enumerate();
        slots.filter_map(|(index, (slot, is_leaving))| slot.filter(|_| is_leaving).map(|slot| (index, slot)))
    }
}

/// Which slots of `before` are no longer wanted as they are. A replica whose permission changes is made anew; with
/// strict isolation every slot is.
fn leaving(before: &Record, change: &Change, is_strict: bool) -> [bool; SLOTS] {
    let mut leaving = [false; SLOTS];
    for ((slot, wanted), leaving) in before.slots.iter().zip(change.wanted).zip(&mut leaving) {
        let Some(slot) = slot else { continue };
        *leaving = match wanted.filter(|wanted| wanted.whole_page && !wanted.permission.is_none()) {
            Some(wanted) => {
                wanted.page != slot.page
                    || ((slot.is_replica || is_strict) && wanted.permission != slot.permission)
            }
            None => true,
        };
    }
    leaving
}

/// What the granule keeps; empty if that is nothing.
fn remainder(departure: &Departure) -> Record {
    let mut after = departure.before;
    for (slot, is_leaving) in after.slots.iter_mut().zip(departure.is_leaving) {
        if is_leaving {
            *slot = None;
        }
    }
    if after.is_vacant() {
        after.form = Form::Empty;
    }
    after
}
