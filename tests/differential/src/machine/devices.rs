//! Accesses of devices.

use super::transfer::Transfer;
use super::{Checked, Machine, name};
use crate::history::Reach;
use crate::program::{Mode, Target};
use crate::sharing::viewer;
use oche_sim::access::{Data, DeviceResult};
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

    pub(super) fn transfer(&mut self, transfer: &Transfer) -> Checked {
        let (dart, id) = name(transfer.dart, transfer.stream);
        let result = match &transfer.data {
            Some(data) => self.host.device_write(dart, id, transfer.iova, data),
            None => self.host.device_read(dart, id, transfer.iova, transfer.length),
        };
        self.judge(transfer, result)
    }

    /// Checks what came of a device's access.
    pub(super) fn judge(&mut self, transfer: &Transfer, result: DeviceResult) -> Checked {
        match self.setting.mode {
            Mode::Quiescent => self.judge_exactly(transfer, result),
            Mode::Concurrent => self.judge_invariants(transfer, result),
        }
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

    /// A device wrote where nothing is mapped, or where it lacks the right.
    pub(super) fn note_stray(&mut self, transfer: &Transfer) {
        let (iova_page, write) =
            (transfer.iova_page(), transfer.data.map(|data| (transfer.offset(), data)));
        match (self.setting.mode, self.history.roots(transfer.dart, transfer.stream)) {
            (Mode::Quiescent, Some(roots)) => {
                self.zone_writes.entry((roots, iova_page)).or_default().extend(write);
            }
            _ => self.stray_writes.entry(iova_page).or_default().extend(write),
        }
    }

    /// A device wrote into `page`.
    pub(super) fn note_device_write(&mut self, transfer: &Transfer, page: Gfn, data: &Data) {
        let (offset, now) = (transfer.offset(), self.history.now());
        // What is under way while a page has one copy may arrive when it has several.
        if self.is_shared(page) || self.setting.mode == Mode::Concurrent {
            let by = self.viewer(transfer);
            let own = self.history.memory.page(page);
            let old = own.map_or(Vec::new(), |own| own[offset..offset + transfer.length].to_vec());
            self.sharing.write(page, offset, &old, by, now);
        } else {
            self.sharing.clear(page, offset, transfer.length);
        }
        self.note_bytes(page, offset, data.bytes());
    }

    /// What each byte of a read of `page` may be; none where anything may be.
    pub(super) fn allowed(&self, transfer: &Transfer, page: Gfn) -> Vec<Vec<u8>> {
        let possible = self.history.possible_roots(transfer.dart, transfer.stream);
        let iova_page = transfer.iova_page();
        // A device that wrote into its copy by a neighbour's right sees what it wrote.
        let is_stray =
            possible.iter().flatten().any(|roots| self.strays.contains(roots, iova_page));
        let Some(memory) = self.history.memory.page(page).filter(|_| !is_stray) else {
            return vec![Vec::new(); transfer.length];
        };
        let viewer = self.viewer(transfer);
        let byte = |offset: usize| {
            let others = self.sharing.others(page, offset, viewer);
            [memory[offset]].into_iter().chain(others.iter().copied()).collect()
        };
        (transfer.offset()..transfer.offset() + transfer.length).map(byte).collect()
    }

    /// The copy through which a device looks. Between two sets of tables it may be that of either:
    /// it is taken for no one else's.
    fn viewer(&self, transfer: &Transfer) -> u64 {
        let possible = self.history.possible_roots(transfer.dart, transfer.stream);
        let all = possible.iter().flatten().map(|roots| viewer(roots, transfer.iova_page()));
        all.fold(0, |all, one| all ^ one)
    }

    /// Compares what reads saw that have been answered.
    pub(super) fn check_answers(&mut self) -> Checked {
        for (id, data) in self.host.take_answers() {
            if let Some(expected) = self.reads.remove(&id) {
                self.counts.compared_bytes += data.bytes().len() as u64;
                expected.check(&data)?;
            }
        }
        Ok(())
    }
}
