//! Quiescent programs: nothing is under way, and each access of a device has one right answer.
//!
//! The items C1 to C5 are those of `docs/contract.md`. What they leave open is which copy of a
//! page a device reaches: [`Sharing`](crate::sharing::Sharing) holds what it may find there.

use super::events::{has_written, red_byte};
use super::flush::{FlushedChange, is_moved};
use super::transfer::{ExpectedRead, Transfer};
use super::{Checked, Machine};
use crate::history::{Reach, Roots};
use crate::reference::Leaf;
use crate::views::mapped_page;
use oche_engine::Isolation;
use oche_reference::registers::ERROR;
use oche_sim::access::{Data, DeviceResult};
use oche_sim::setup::Board;
use oche_types::addr::{Gfn, Hfn, SLOTS};

/// How a device's access must end.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// It is refused.
    Fault,
    /// It is refused because no page on one side of it is mapped in its granule.
    OutsideWindow,
    /// It reaches the page that is mapped there.
    Page(Leaf),
    /// It reaches a page of the pool that no page of the guest is in.
    RedZone,
}

impl<const C: bool> Machine<C> {
    /// C1, C3, C5: the answer to an access that the tables give, with what was refused.
    fn answer(&self, transfer: &Transfer) -> Answer {
        let Some(roots) = self.history.roots(transfer.dart, transfer.stream) else {
            return Answer::Fault;
        };
        let slot = transfer.iova_page() as usize % SLOTS;
        let granule: [Option<Leaf>; SLOTS] = core::array::from_fn(|slot| {
            self.mapped(transfer, roots, transfer.iova_page() & !3 | slot as u32)
        });
        let mapped = || granule.iter().flatten();
        // C3: hardware has one permission for a granule, the union of its pages'. An SMMU cannot
        // forbid reads alone.
        let may_write = mapped().any(|leaf| leaf.write);
        let may_read =
            mapped().any(|leaf| leaf.read) || may_write && self.setting.board == Board::Smmu;
        if !(if transfer.is_write() { may_write } else { may_read }) {
            return Answer::Fault;
        }
        let has_windows = self.setting.has_windows && self.setting.board == Board::Dart;
        let (before, after) = granule.split_at(slot);
        let is_inside = before.iter().chain(&after[..1]).any(Option::is_some)
            && after.iter().any(Option::is_some);
        if has_windows && !is_inside {
            return Answer::OutsideWindow;
        }
        match granule[slot] {
            // With exact permissions, the granule of a page that is not to be read has no right to
            // read.
            Some(leaf) if self.is_unreadable(leaf) && !transfer.is_write() => Answer::Fault,
            Some(leaf) => Answer::Page(leaf),
            None => Answer::RedZone,
        }
    }

    fn is_unreadable(&self, leaf: Leaf) -> bool {
        let is_strict = self.setting.isolation == Isolation::Strict;
        is_strict && self.setting.board == Board::Dart && !leaf.read
    }

    /// The leaf of page `iova_page` of the tables of `roots`, if it maps a page that was not
    /// refused.
    fn mapped(&self, transfer: &Transfer, roots: Roots, iova_page: u32) -> Option<Leaf> {
        let reach = self.history.present(transfer.dart, transfer.stream, iova_page);
        let Reach::Page(leaf) = reach else { return None };
        ((leaf.read || leaf.write) && !self.is_refused(roots, iova_page, leaf.page)).then_some(leaf)
    }

    /// Whether the granule is in a table that was refused: which table an event is about, and
    /// whether it has been taken since, is not known.
    fn is_in_refused_table(&self, transfer: &Transfer) -> bool {
        let roots = self.history.roots(transfer.dart, transfer.stream);
        roots.is_some_and(|roots| self.refused_tables.contains(roots, transfer.iova_page()))
    }

    /// Compares what came of a device's access with the one right answer.
    pub(super) fn judge_exactly(&mut self, transfer: &Transfer, result: DeviceResult) -> Checked {
        if self.is_in_refused_table(transfer) {
            self.judge_invariants(transfer, result)?;
            self.host.deliver(|_| true);
            return self.check_answers();
        }
        self.host.deliver(|_| true);
        let seen = self.host.take_answers().pop().map(|(_, data)| data);
        let answer = self.answer(transfer);
        match (answer, result) {
            (Answer::Fault | Answer::OutsideWindow, DeviceResult::Fault) => {
                self.counts.faults += 1;
                self.counts.window_faults += u64::from(matches!(answer, Answer::OutsideWindow));
                // C5: the guest reads why at once.
                self.expect_fault(transfer);
                self.read_register(transfer.dart, ERROR).map(drop)
            }
            (Answer::Page(leaf), DeviceResult::Accepted { at, owner, .. }) => {
                self.judge_page(transfer, leaf, at, owner, seen)
            }
            (Answer::RedZone, DeviceResult::Accepted { at, owner, .. }) => {
                self.counts.red_zones += 1;
                // C3: no page of the guest lies there.
                match owner.or(self.host.deserted_by(at)) {
                    None => self.judge_red_zone(transfer, seen),
                    Some(page) => Err(format!(
                        "{transfer} reaches {page:?} at {at:?}, where nothing is mapped"
                    )),
                }
            }
            (answer, result) => Err(format!("{transfer} ends as {result:x?}, not as {answer:x?}")),
        }
    }

    /// C1, C2: an access to a page reaches it, or a copy of it where it has copies.
    fn judge_page(
        &mut self,
        transfer: &Transfer,
        leaf: Leaf,
        at: Hfn,
        owner: Option<Gfn>,
        seen: Option<Data>,
    ) -> Checked {
        self.counts.exact_accesses += 1;
        let page = leaf.page;
        let is_foreign = owner.or(self.host.deserted_by(at)).is_some_and(|owner| owner != page);
        if is_foreign || !self.is_shared(page) && owner != Some(page) {
            return Err(format!(
                "{transfer} reaches {at:?} ({owner:?}), CPUs find {page:?} at {:?}",
                self.host.location(page)
            ));
        }
        match transfer.data {
            Some(data) if leaf.write => self.note_device_write(transfer, page, &data),
            Some(data) => return self.judge_stray(transfer, page, owner, &data),
            None => {}
        }
        match seen {
            Some(seen) => self.judge_read(transfer, leaf, &seen),
            None => Ok(()),
        }
    }

    /// C2: a device reads the guest's memory.
    fn judge_read(&mut self, transfer: &Transfer, leaf: Leaf, seen: &Data) -> Checked {
        // What the copy of a page holds that is not to be read is not defined.
        if !leaf.read && self.is_shared(leaf.page) {
            return Ok(());
        }
        self.counts.compared_bytes += seen.bytes().len() as u64;
        let allowed = self.allowed(transfer, leaf.page);
        let page = (leaf.page, self.describe(leaf.page));
        ExpectedRead { transfer: *transfer, page, allowed }.check(seen)
    }

    /// C3: a write by a neighbour's right reaches the page itself, or a copy that only the devices
    /// of its granule see. With exact permissions it is always a copy.
    fn judge_stray(
        &mut self,
        transfer: &Transfer,
        page: Gfn,
        owner: Option<Gfn>,
        data: &Data,
    ) -> Checked {
        let Some(roots) = self.history.roots(transfer.dart, transfer.stream) else { return Ok(()) };
        self.note_stray(transfer);
        if owner.is_none() {
            self.strays.insert(roots, transfer.iova_page());
            return Ok(());
        }
        if self.setting.isolation == Isolation::Strict {
            return Err(format!("{transfer} reaches {page:?} itself, where it lacks the right"));
        }
        self.note_device_write(transfer, page, data);
        Ok(())
    }

    /// C5: what a device writes into a red zone is reported later; what it reads is the zone's
    /// pattern, or what a device wrote there.
    fn judge_red_zone(&mut self, transfer: &Transfer, seen: Option<Data>) -> Checked {
        let iova_page = transfer.iova_page();
        if transfer.is_write() {
            self.note_stray(transfer);
            // A byte or two can be the pattern's own by chance.
            if transfer.length >= 4 {
                let roots = self.history.roots(transfer.dart, transfer.stream);
                self.red_zones.extend(roots.map(|roots| (roots, iova_page)));
            }
            return Ok(());
        }
        let seen = seen.iter().flat_map(|seen| seen.bytes().iter().copied());
        let roots = self.history.roots(transfer.dart, transfer.stream);
        let writes = roots.and_then(|roots| self.zone_writes.get(&(roots, iova_page)));
        let writes = writes.map_or(&[][..], Vec::as_slice);
        for (offset, byte) in (transfer.offset()..).zip(seen) {
            if byte != red_byte(offset) && !has_written(writes, offset, byte) {
                return Err(format!("{transfer} sees {byte:02x} at {offset:#x} of a red zone"));
            }
        }
        Ok(())
    }

    /// C5: a write into a red zone is reported when its slot is mapped or the last page of its
    /// granule goes. With windows it may be reported earlier.
    pub(super) fn check_red_zones(&mut self, changes: &[FlushedChange]) -> Checked {
        for FlushedChange { roots, change, was_refused } in changes {
            let after = mapped_page(&self.history, change.after);
            let is_refused = after
                .is_some_and(|page| self.is_refused(*roots, change.iova_page, page))
                || self.refused_tables.contains(*roots, change.iova_page);
            if self.zone_writes.is_empty() || !is_moved(&self.history, change) || is_refused {
                continue;
            }
            let is_mapped = |slot| {
                let entry = self.views.entry(*roots, change.iova_page & !3 | slot);
                mapped_page(&self.history, entry).is_some()
            };
            let is_emptied = mapped_page(&self.history, change.before).is_some()
                && !was_refused
                && !(0..SLOTS as u32).any(is_mapped);
            for slot in 0..SLOTS as u32 {
                let zone = change.iova_page & !3 | slot;
                let is_filled = zone == change.iova_page && after.is_some();
                if !is_filled && !is_emptied {
                    continue;
                }
                self.zone_writes.remove(&(*roots, zone));
                if self.red_zones.contains(&(*roots, zone)) {
                    return Err(format!(
                        "a write into the red zone at IOVA page {zone:#x} is not reported by the \
                         flush that changes {:#x}",
                        change.iova_page
                    ));
                }
            }
        }
        Ok(())
    }
}
