//! Accesses of devices, and whether what came of them is right.

use super::transfer::{ExpectedRead, Transfer};
use super::{Checked, Machine, name};
use crate::history::Reach;
use crate::program::Target;
use crate::sharing::viewer;
use oche_engine::Isolation;
use oche_sim::access::DeviceResult;
use oche_types::addr::Gfn;

impl<const C: bool> Machine<C> {
    /// A device reads or writes.
    pub(super) fn device(
        &mut self,
        stream: u8,
        target: Target,
        length: usize,
        is_write: bool,
    ) -> Checked {
        let Some(transfer) = self.aim(stream, target, length, is_write) else { return Ok(()) };
        for page in self.pages_within_reach(&transfer) {
            self.deliver_to(page, transfer.offset(), transfer.length);
        }
        self.transfer(&transfer)?;
        // Most transfers do not stay under way for long.
        if self.random.chance(1, 3) {
            self.host.deliver_any();
        }
        Ok(())
    }

    fn transfer(&mut self, transfer: &Transfer) -> Checked {
        let (dart, id) = name(transfer.dart, transfer.stream);
        let result = match &transfer.data {
            Some(data) => self.host.device_write(dart, id, transfer.iova, data),
            None => self.host.device_read(dart, id, transfer.iova, transfer.length),
        };
        self.judge(transfer, result)
    }

    /// A device writes and a CPU loads the same bytes, or a CPU stores and a device reads them: at
    /// once.
    pub(super) fn exchange(
        &mut self,
        stream: u8,
        target: Target,
        length: usize,
        to_device: bool,
    ) -> Checked {
        let Some(transfer) = self.aim(stream, target, length, !to_device) else { return Ok(()) };
        let [page] = self.pages_within_reach(&transfer)[..] else { return Ok(()) };
        if self.views.is_table(page) || self.guest.is_table(page) {
            return Ok(());
        }
        let offset = transfer.offset();
        if to_device {
            let data = self.random_data(transfer.length);
            self.store(page, offset, data.bytes())?;
            return self.transfer(&transfer);
        }
        self.deliver_to(page, offset, transfer.length);
        self.transfer(&transfer)?;
        self.load(page, offset, transfer.length)
    }

    /// The access that `target` means, unless it could write into a table: a hostile guest has its
    /// own way.
    pub(super) fn aim(
        &mut self,
        stream: u8,
        target: Target,
        length: usize,
        is_write: bool,
    ) -> Option<Transfer> {
        let (dart, stream, iova_page) =
            self.guest.resolve(target, stream, self.setting.darts, &mut self.random)?;
        let (offset, length) = self.place(length);
        let data = is_write.then(|| self.random_data(length));
        let iova = u64::from(iova_page & 0xf_ffff) << 12 | offset as u64;
        let transfer = Transfer { dart, stream, iova, length, data, is_overlapped: false };
        let is_table = |page: &Gfn| self.views.is_table(*page) || self.guest.is_table(*page);
        (!is_write || !self.pages_within_reach(&transfer).iter().any(is_table)).then_some(transfer)
    }

    pub(super) fn pages_within_reach(&self, transfer: &Transfer) -> Vec<Gfn> {
        let reaches = self.history.reaches(transfer.dart, transfer.stream, transfer.iova_page());
        let page = |reach| if let Reach::Page(leaf) = reach { Some(leaf.page) } else { None };
        reaches.into_iter().filter_map(page).collect()
    }

    /// Whether what came of a device's access is one of the things that could.
    pub(super) fn judge(&mut self, transfer: &Transfer, result: DeviceResult) -> Checked {
        let Transfer { dart, stream, iova, .. } = *transfer;
        let is_write = transfer.data.is_some();
        let iova_page = transfer.iova_page();
        let reaches = self.history.reaches(dart, stream, iova_page);
        let possible = self.history.possible_roots(dart, stream);
        let mut is_refused = false;
        let mut is_kept = false;
        let mut is_doubtful = false;
        for roots in possible.iter().flatten() {
            let is_refused_here = self.refused.contains(roots, iova_page);
            is_refused |= is_refused_here;
            is_kept |= !is_refused_here;
            is_doubtful |= self.refused_tables.contains(roots, iova_page);
        }
        // A stream on its way from tables where the page is mapped to others where it was refused:
        // either may count.
        is_doubtful |= is_refused && is_kept;
        // What was refused is tried again when its granule changes, which it may have been by now.
        is_doubtful |= is_refused && transfer.is_overlapped && self.views_are_changing(transfer);
        let (may_read, may_write) = self.granted(dart, stream, iova_page);
        let is_strict = self.setting.isolation == Isolation::Strict;
        let mut may_fault = is_refused || is_doubtful;
        // A sync that replaces a page by another may have neither for a moment; no driver asks for
        // it.
        may_fault |= transfer.is_overlapped && reaches.len() > 1;
        let mut pages = Vec::new();
        let mut is_exact = reaches.len() == 1 && !is_refused && !is_doubtful;
        for reach in &reaches {
            match *reach {
                Reach::Nothing(_) => may_fault = true,
                Reach::Page(leaf) => {
                    let has_right = if is_write { leaf.write } else { leaf.read };
                    let is_mapping = leaf.read || leaf.write;
                    may_fault |= !has_right;
                    is_exact &= has_right;
                    // Permissions inside a granule are the union of its pages', unless they are
                    // exact. Even then some hardware cannot forbid reads alone.
                    let can_write_only = self.setting.board == oche_sim::setup::Board::Dart;
                    let is_granted = match (is_strict, is_write) {
                        (false, true) => is_mapping && may_write,
                        (false, false) => is_mapping && may_read,
                        (true, true) => false,
                        (true, false) => leaf.write && !can_write_only,
                    };
                    if (has_right || is_granted)
                        && (!is_refused || is_doubtful || reaches.len() > 1)
                    {
                        pages.push(leaf.page);
                    }
                }
            }
        }
        match result {
            DeviceResult::Fault if may_fault => {
                self.counts.faults += 1;
                let is_partly_mapped = pages.is_empty() && (may_read || may_write);
                self.counts.window_faults +=
                    u64::from(is_partly_mapped && self.is_outside_window(transfer));
                self.expect_fault(dart, stream, iova, is_write);
                Ok(())
            }
            DeviceResult::Fault => {
                Err(format!("{transfer} faults, where the tables say {reaches:x?}"))
            }
            DeviceResult::Accepted { at, owner, .. } if pages.is_empty() => {
                self.judge_red_zone(transfer, result, at, owner, may_read || may_write)
            }
            DeviceResult::Accepted { id, at, owner } if is_exact => {
                self.counts.exact_accesses += 1;
                let page = pages[0];
                self.host.name_pending(id, page);
                if !transfer.is_overlapped && !self.is_shared(page) && owner != Some(page) {
                    return Err(format!(
                        "{transfer} reaches {at:?}, CPUs find {page:?} at {:?}",
                        self.host.location(page)
                    ));
                }
                self.note_exact(transfer, id, page)
            }
            DeviceResult::Accepted { id, at, owner } => {
                self.counts.ambiguous_accesses += 1;
                let is_foreign = |owner: Gfn| !pages.contains(&owner);
                if !transfer.is_overlapped
                    && owner.or(self.host.deserted_by(at)).is_some_and(is_foreign)
                {
                    return Err(format!(
                        "{transfer} reaches {owner:?} at {at:?}, the tables say {reaches:x?}"
                    ));
                }
                if is_write {
                    self.host.deliver(|pending| pending.id == id);
                    self.note_ambiguous(transfer, &pages);
                    self.note_stray(transfer);
                    // It may have gone into an empty slot as well, or into a copy that no other
                    // device sees.
                    let may_be_stray = reaches
                        .iter()
                        .any(|reach| matches!(reach, Reach::Page(leaf) if !leaf.write));
                    for roots in possible.iter().flatten().filter(|_| may_be_stray) {
                        self.strays.insert(roots, iova_page);
                        self.late_strays
                            .extend(transfer.is_overlapped.then_some((roots, iova_page)));
                    }
                    for roots in possible.iter().flatten() {
                        self.red_zones.entry((roots, iova_page)).or_insert(false);
                        self.late_red_zones
                            .extend(transfer.is_overlapped.then_some((roots, iova_page)));
                    }
                }
                Ok(())
            }
        }
    }

    pub(super) fn note_stray(&mut self, transfer: &Transfer) {
        let writes = self.stray_writes.entry(transfer.iova_page()).or_default();
        writes.extend(transfer.data.map(|data| (transfer.offset(), data)));
    }

    /// What any page of the granule may grant: reads, writes.
    fn granted(&self, dart: usize, stream: usize, iova_page: u32) -> (bool, bool) {
        let mut granted = (false, false);
        for slot in 0..4 {
            for reach in self.history.reaches(dart, stream, iova_page & !3 | slot) {
                if let Reach::Page(leaf) = reach {
                    granted.0 |= leaf.read;
                    granted.1 |= leaf.write;
                }
            }
        }
        // Some hardware cannot forbid reads alone.
        granted.0 |= granted.1 && self.setting.board == oche_sim::setup::Board::Smmu;
        granted
    }

    fn note_exact(&mut self, transfer: &Transfer, id: u64, page: Gfn) -> Checked {
        let (offset, length) = (transfer.offset(), transfer.length);
        // Between two sets of tables it may look through the copy of either: it is taken for no one
        // else.
        let possible = self.history.possible_roots(transfer.dart, transfer.stream);
        let viewer = possible
            .iter()
            .flatten()
            .fold(0, |all, roots| all ^ viewer(roots, transfer.iova_page()));
        match transfer.data {
            Some(data) => {
                self.note_bytes(page, offset, data.bytes());
                if self.is_shared(page) {
                    self.sharing.write(page, offset, length, viewer, self.history.now());
                } else {
                    self.sharing.clear(page, offset, length);
                }
            }
            None => {
                let Some(memory) = self.history.memory.page(page) else { return Ok(()) };
                // A device that wrote into its copy sees what it wrote.
                let is_stray = possible
                    .iter()
                    .flatten()
                    .any(|roots| self.strays.contains(roots, transfer.iova_page()));
                let byte = |index| {
                    (!is_stray && !self.sharing.is_vague(page, index, viewer))
                        .then_some(memory[index])
                };
                let bytes = (offset..offset + length).map(byte).collect();
                let page = Some((page, self.describe(page)));
                self.reads.insert(
                    id,
                    ExpectedRead { transfer: *transfer, page, bytes, is_red_zone: false },
                );
            }
        }
        Ok(())
    }

    /// A write that has gone to one of `pages`, or nowhere.
    fn note_ambiguous(&mut self, transfer: &Transfer, pages: &[Gfn]) {
        let (offset, length) = (transfer.offset(), transfer.length);
        for &page in pages {
            if self.is_shared(page) {
                self.sharing.contest(page, offset, length, self.history.now());
                continue;
            }
            let Some(data) = transfer.data else { continue };
            for (index, &new) in data.bytes().iter().enumerate() {
                let Some(words) = self.host.view(page) else { continue };
                let found = words[(offset + index) / 8].to_le_bytes()[(offset + index) % 8];
                if found == new {
                    self.note_bytes(page, offset + index, &[new]);
                    self.sharing.clear(page, offset + index, 1);
                }
            }
        }
    }

    /// Compares what reads saw that have been answered.
    pub(super) fn check_answers(&mut self) -> Checked {
        self.check_answers_at(0)
    }

    pub(super) fn check_answers_at(&mut self, red_offset: usize) -> Checked {
        for (id, data) in self.host.take_answers() {
            let Some(expected) = self.reads.remove(&id) else { continue };
            if expected.is_red_zone {
                self.check_red_pattern(&expected, red_offset, data.bytes())?;
            }
            self.counts.compared_bytes += data.bytes().len() as u64;
            for (index, (found, expected_byte)) in
                data.bytes().iter().zip(&expected.bytes).enumerate()
            {
                if expected_byte.is_some_and(|byte| byte != *found) {
                    return Err(format!(
                        "{expected} sees {:02x?}, its byte {index} should be {expected_byte:02x?}",
                        data.bytes(),
                    ));
                }
            }
        }
        Ok(())
    }
}
