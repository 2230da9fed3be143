//! Accesses of CPUs and devices, and whether what came of them is right.

use super::{Checked, ExpectedRead, Machine, name};
use crate::differential::history::Reach;
use crate::differential::sharing::{CPU, viewer};
use crate::program::{Choice, During, Target};
use crate::world::iommu::DeviceResult;
use crate::world::stage2::CpuResult;
use crate::world::{Access, Data, Outcome, Sabotage, StrictWorld};
use oche_hyp::addr::{Gfn, Hfn, PAGE_BYTES};
use oche_hyp::engine::{Coherence, CpuReach, Isolation, Trapped};
use std::fmt::{Display, Formatter};

/// A device's access, as it goes through the checks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    dart: usize,
    stream: usize,
    iova: u64,
    length: usize,
    /// `None` for a read.
    data: Option<Data>,
    /// It ran in the middle of the engine's work.
    is_overlapped: bool,
}

impl Transfer {
    fn offset(&self) -> usize {
        self.iova as usize % PAGE_BYTES
    }

    fn iova_page(&self) -> u32 {
        (self.iova >> 12) as u32
    }
}

impl Display for Transfer {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { dart, stream, iova, .. } = self;
        let what = if self.data.is_some() { "a write" } else { "a read" };
        write!(f, "DART {dart} stream {stream}: {what} at IOVA {iova:#x}")
    }
}

impl Display for ExpectedRead {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match &self.page {
            Some((page, state)) => write!(f, "{} ({page:?}, {state})", self.transfer),
            None => write!(f, "{}", self.transfer),
        }
    }
}

impl<const C: bool> Machine<C> {
    pub(super) fn load_somewhere(&mut self, page: Choice, length: usize) -> Checked {
        let page = self.choose(page);
        let (offset, length) = self.place(length);
        self.load(page, offset, length)
    }

    pub(super) fn store_somewhere(&mut self, page: Choice, length: usize) -> Checked {
        let page = self.choose(page);
        if self.views.is_table(page) || self.guest.is_table(page) {
            return Ok(());
        }
        let (offset, length) = self.place(length);
        let data = self.random_data(length);
        self.store(page, offset, data.bytes())
    }

    fn place(&mut self, length: usize) -> (usize, usize) {
        let length = length.clamp(1, 32);
        let offset = self.random.index(PAGE_BYTES - length + 1);
        // Drivers' data is aligned mostly, and mostly near a page's start or end.
        let offset = match self.random.below(4) {
            0 => offset,
            1 => offset % 128,
            2 => PAGE_BYTES - length - offset % 64,
            _ => offset & !31,
        };
        (offset.min(PAGE_BYTES - length), length)
    }

    /// A CPU loads and compares.
    pub(super) fn load(&mut self, page: Gfn, offset: usize, length: usize) -> Checked {
        self.deliver_to(page, offset, length);
        let cpu = self.random.index(self.world.cpu_count());
        for _ in 0..3 {
            let result = self.world.cpu_load(cpu, page, offset, length);
            if !matches!(result, CpuResult::NoAccess) {
                return self.judge_load(page, offset, result);
            }
            if let Some(result) = self.load_trapped(page, offset, length)? {
                return self.judge_load(page, offset, result);
            }
        }
        Err(format!("a CPU's load of {page:?} traps again and again"))
    }

    /// A load traps. `None`: it is to be tried again.
    fn load_trapped(&mut self, page: Gfn, offset: usize, length: usize) -> Checked<Option<CpuResult>> {
        if !self.trap(page, CpuReach::Load)? {
            return Ok(None);
        }
        if self.random.chance(1, 3) {
            let at = self.engine.open_guarded(&mut self.world, page);
            let result = self.world.opened_load(at, offset, length);
            self.engine.settle_guarded(&mut self.world, page);
            return Ok(Some(result));
        }
        let mut bytes = [0; 32];
        for (number, chunk) in bytes[..length].chunks_mut(8).enumerate() {
            let offset = offset + 8 * number;
            let value = self.engine.load_guarded(&mut self.world, page, offset, chunk.len());
            chunk.copy_from_slice(&value.to_le_bytes()[..chunk.len()]);
        }
        Ok(Some(CpuResult::Loaded(Data::new(&bytes[..length]))))
    }

    fn judge_load(&mut self, page: Gfn, offset: usize, result: CpuResult) -> Checked {
        let CpuResult::Loaded(data) = result else {
            return Err(format!("a CPU's load of {page:?} ends with {result:?}"));
        };
        for unknown in self.sharing.look(page, offset, data.bytes().len()) {
            self.note_bytes(page, unknown, &[data.bytes()[unknown - offset]]);
        }
        let Some(memory) = self.history.memory.page(page) else { return Ok(()) };
        self.counts.compared_bytes += data.bytes().len() as u64;
        for (index, (&found, &expected)) in data.bytes().iter().zip(&memory[offset..]).enumerate() {
            if found != expected && !self.sharing.is_vague(page, offset + index, CPU) {
                return Err(format!(
                    "a CPU loads {found:#04x} at offset {:#x} of {page:?} ({}), not {expected:#04x}",
                    offset + index,
                    self.describe(page)
                ));
            }
        }
        Ok(())
    }

    /// A CPU stores, on both sides.
    pub(super) fn store(&mut self, page: Gfn, offset: usize, bytes: &[u8]) -> Checked {
        self.deliver_to(page, offset, bytes.len());
        let cpu = self.random.index(self.world.cpu_count());
        for _ in 0..3 {
            match self.world.cpu_store(cpu, page, offset, &Data::new(bytes)) {
                CpuResult::Stored => {
                    self.note_cpu_store(page, offset, bytes);
                    return Ok(());
                }
                CpuResult::ReadOnly | CpuResult::NoAccess => {
                    if self.store_trapped(page, offset, bytes)? {
                        return Ok(());
                    }
                }
                result => return Err(format!("a CPU's store to {page:?} ends with {result:?}")),
            }
        }
        Err(format!("a CPU's store to {page:?} traps again and again"))
    }

    /// A store traps. False: it is to be tried again.
    fn store_trapped(&mut self, page: Gfn, offset: usize, bytes: &[u8]) -> Checked<bool> {
        if !self.trap(page, CpuReach::Store)? {
            return Ok(false);
        }
        if self.random.chance(1, 3) {
            let at = self.engine.open_guarded(&mut self.world, page);
            self.world.opened_store(at, offset, &Data::new(bytes));
            if !self.world.is_sabotaged(Sabotage::SkipSettle) {
                self.engine.settle_guarded(&mut self.world, page);
            }
        } else {
            for (number, chunk) in bytes.chunks(8).enumerate() {
                let mut value = [0; 8];
                value[..chunk.len()].copy_from_slice(chunk);
                let (offset, value) = (offset + 8 * number, u64::from_le_bytes(value));
                self.engine.store_guarded(&mut self.world, page, offset, chunk.len(), value);
            }
        }
        self.note_cpu_store(page, offset, bytes);
        Ok(true)
    }

    /// A CPU executes what lies in a page.
    pub(super) fn fetch(&mut self, page: Choice) -> Checked {
        let page = self.choose(page);
        if self.is_any_stream_between() {
            return Ok(());
        }
        let (offset, length) = self.place(4);
        let result = self.access_unguarded(page, CpuReach::Fetch, |world, cpu| {
            world.cpu_load(cpu, page, offset, length)
        })?;
        self.judge_load(page, offset, result)
    }

    /// A CPU's walk of its own tables reads an entry, or sets the access flag in one.
    pub(super) fn walk(&mut self, page: Choice, is_write: bool) -> Checked {
        let page = self.choose(page);
        if self.is_any_stream_between() {
            return Ok(());
        }
        let offset = 8 * self.random.index(PAGE_BYTES / 8);
        if !is_write {
            let result = self
                .access_unguarded(page, CpuReach::Walk, |world, cpu| world.cpu_load(cpu, page, offset, 8))?;
            return self.judge_load(page, offset, result);
        }
        if self.views.is_table(page) || self.guest.is_table(page) {
            return Ok(());
        }
        let data = self.random_data(8);
        match self
            .access_unguarded(page, CpuReach::Walk, |world, cpu| world.cpu_store(cpu, page, offset, &data))?
        {
            CpuResult::Stored => self.note_cpu_store(page, offset, data.bytes()),
            result => return Err(format!("a CPU's walk that stores into {page:?} ends with {result:?}")),
        }
        Ok(())
    }

    /// An access that nobody can carry out in the CPU's place: where it traps, the page's copies are given up.
    fn access_unguarded(
        &mut self,
        page: Gfn,
        reach: CpuReach,
        access: impl Fn(&mut StrictWorld<C>, usize) -> CpuResult,
    ) -> Checked<CpuResult> {
        self.deliver_to(page, 0, PAGE_BYTES);
        let cpu = self.random.index(self.world.cpu_count());
        for _ in 0..3 {
            let result = access(&mut self.world, cpu);
            if !matches!(result, CpuResult::NoAccess | CpuResult::ReadOnly) {
                return Ok(result);
            }
            self.given_up.insert(page);
            self.counts.given_up += 1;
            if self.trap(page, reach)? {
                return Err(format!("{reach:?} of {page:?} traps, and the engine would carry it out"));
            }
            self.take_late_events()?;
        }
        Err(format!("{reach:?} of {page:?} traps again and again"))
    }

    /// Looks at what the engine refused long after the flush that would have mapped it.
    pub(super) fn take_late_events(&mut self) -> Checked {
        let early = self.refused_early.clone();
        self.take_events()?;
        self.refused_early = early;
        Ok(())
    }

    /// Whether some stream may use one set of tables or another: a refusal, which names a stream, may be of either.
    fn is_any_stream_between(&self) -> bool {
        let in_use = self.history.streams_in_use();
        in_use.iter().any(|&(dart, stream)| !self.history.possible_roots(dart, stream).is_certain())
    }

    /// A CPU's access traps. Whether the page is guarded; otherwise the access is to be tried again.
    fn trap(&mut self, page: Gfn, access: CpuReach) -> Checked<bool> {
        let trapped = self.engine.access_trapped(&mut self.world, page.address(), access);
        self.after_call()?;
        match trapped {
            Trapped::Retry => {
                self.counts.retried_traps += 1;
                Ok(false)
            }
            Trapped::Guarded(found) if found == page => {
                self.counts.guarded_accesses += 1;
                Ok(true)
            }
            trapped => Err(format!("{access:?} of {page:?} traps, and the engine says {trapped:?}")),
        }
    }

    /// Has the engine bring all that devices wrote into copies of `page` to where CPUs look, if it is guarded.
    pub(super) fn look_at_all_of(&mut self, page: Gfn) -> Checked {
        if self.setting.coherence == Coherence::Exact {
            let length = PAGE_BYTES;
            self.engine.open_guarded(&mut self.world, page);
            self.engine.settle_guarded(&mut self.world, page);
            for offset in self.sharing.look(page, 0, length) {
                self.adopt(page, offset);
            }
        }
        Ok(())
    }

    /// A disk uses a page physically: it is at home with all that anybody wrote, and stays there until the disk has done.
    pub(super) fn disk(&mut self, page: Choice, length: usize, is_write: bool, stays: bool) -> Checked {
        for page in std::mem::take(&mut self.held) {
            self.engine.release(&mut self.world, page);
        }
        let page = self.choose(page);
        let may_be_refused = self.setting.frames < 1000;
        if self.views.is_table(page)
            || self.guest.is_table(page)
            || (may_be_refused && self.is_any_stream_between())
        {
            return Ok(());
        }
        let (offset, length) = self.place(length);
        self.deliver_to(page, 0, PAGE_BYTES);
        self.counts.disk_uses += 1;
        self.counts.fetched += u64::from(self.world.location(page) != Some(page.home()));
        self.fetched.insert(page);
        self.engine.hold(&mut self.world, page);
        self.held.push(page);
        self.after_call()?;
        if self.world.location(page) != Some(page.home()) {
            return Err(format!("the disk uses {page:?}, which is at {:?}", self.world.location(page)));
        }
        let seen = self.world.opened_load(page.home(), offset, length);
        self.judge_load(page, offset, seen)?;
        if is_write {
            let data = self.random_data(length);
            self.world.opened_store(page.home(), offset, &data);
            self.note_cpu_store(page, offset, data.bytes());
        }
        // What it writes is everybody's once it has done.
        if is_write || !stays {
            self.held.clear();
            self.engine.release(&mut self.world, page);
        }
        Ok(())
    }

    fn note_cpu_store(&mut self, page: Gfn, offset: usize, bytes: &[u8]) {
        self.note_bytes(page, offset, bytes);
        if self.is_shared(page) {
            self.sharing.write(page, offset, bytes.len(), CPU, self.history.now());
        } else {
            self.sharing.clear(page, offset, bytes.len());
        }
    }

    /// The guest's memory changes.
    pub(super) fn note_bytes(&mut self, page: Gfn, offset: usize, bytes: &[u8]) {
        let changed = self.history.store(page, offset, bytes);
        self.views.note_store(&self.history, page, &changed);
    }

    /// Transfers under way to these bytes arrive, as the guest waits for them before it looks.
    pub(super) fn deliver_to(&mut self, page: Gfn, offset: usize, length: usize) {
        if self.world.pending().is_empty() {
            return;
        }
        self.world.deliver(|pending| {
            pending.page == Some(page)
                && pending.offset < offset + length
                && offset < pending.offset + pending.length
        });
    }

    /// A device reads or writes.
    pub(super) fn device(&mut self, stream: u8, target: Target, length: usize, is_write: bool) -> Checked {
        let Some(transfer) = self.aim(stream, target, length, is_write) else { return Ok(()) };
        for page in self.pages_within_reach(&transfer) {
            self.deliver_to(page, transfer.offset(), transfer.length);
        }
        self.transfer(&transfer)?;
        // Most transfers do not stay under way for long.
        if self.random.chance(1, 3) {
            self.world.deliver_any();
        }
        Ok(())
    }

    fn transfer(&mut self, transfer: &Transfer) -> Checked {
        let (dart, id) = name(transfer.dart, transfer.stream);
        let result = match &transfer.data {
            Some(data) => self.world.device_write(dart, id, transfer.iova, data),
            None => self.world.device_read(dart, id, transfer.iova, transfer.length),
        };
        self.judge(transfer, result)
    }

    /// A device writes and a CPU loads the same bytes, or a CPU stores and a device reads them: at once.
    pub(super) fn exchange(&mut self, stream: u8, target: Target, length: usize, to_device: bool) -> Checked {
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

    /// The access that `target` means, unless it could write into a table: vandals have their own way.
    fn aim(&mut self, stream: u8, target: Target, length: usize, is_write: bool) -> Option<Transfer> {
        let (dart, stream, iova_page) =
            self.guest.resolve(target, stream, self.setting.darts, &mut self.random)?;
        let (offset, length) = self.place(length);
        let data = is_write.then(|| self.random_data(length));
        let iova = u64::from(iova_page & 0xf_ffff) << 12 | offset as u64;
        let transfer = Transfer { dart, stream, iova, length, data, is_overlapped: false };
        let is_table = |page: &Gfn| self.views.is_table(*page) || self.guest.is_table(*page);
        (!is_write || !self.pages_within_reach(&transfer).iter().any(is_table)).then_some(transfer)
    }

    fn pages_within_reach(&self, transfer: &Transfer) -> Vec<Gfn> {
        let reaches = self.history.reaches(transfer.dart, transfer.stream, transfer.iova_page());
        let page = |reach| if let Reach::Page(leaf) = reach { Some(leaf.page) } else { None };
        reaches.into_iter().filter_map(page).collect()
    }

    /// Whether what came of a device's access is one of the things that could.
    fn judge(&mut self, transfer: &Transfer, result: DeviceResult) -> Checked {
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
        // A stream on its way from tables where the page is mapped to others where it was refused: either may count.
        is_doubtful |= is_refused && is_kept;
        // What was refused is tried again when its granule changes, which it may have been by now.
        is_doubtful |= is_refused && transfer.is_overlapped && self.views_are_changing(transfer);
        let (may_read, may_write) = self.granted(dart, stream, iova_page);
        let is_strict = self.setting.isolation == Isolation::Strict;
        let mut may_fault = is_refused || is_doubtful;
        // A sync that replaces a page by another may have neither for a moment; no driver asks for it.
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
                    // Permissions inside a granule are the union of its pages', unless they are exact. Even then
                    // some hardware cannot forbid reads alone.
                    let can_write_only = self.setting.board == crate::world::Board::Dart;
                    let is_granted = match (is_strict, is_write) {
                        (false, true) => is_mapping && may_write,
                        (false, false) => is_mapping && may_read,
                        (true, true) => false,
                        (true, false) => leaf.write && !can_write_only,
                    };
                    if (has_right || is_granted) && (!is_refused || is_doubtful || reaches.len() > 1) {
                        pages.push(leaf.page);
                    }
                }
            }
        }
        match result {
            DeviceResult::Fault if may_fault => {
                self.counts.faults += 1;
                let is_partly_mapped = pages.is_empty() && (may_read || may_write);
                self.counts.window_faults += u64::from(is_partly_mapped && self.is_outside_window(transfer));
                self.expect_fault(dart, stream, iova, is_write);
                Ok(())
            }
            DeviceResult::Fault => Err(format!("{transfer} faults, where the tables say {reaches:x?}")),
            DeviceResult::Accepted { at, owner, .. } if pages.is_empty() => {
                self.judge_red_zone(transfer, result, at, owner, may_read || may_write)
            }
            DeviceResult::Accepted { id, at, owner } if is_exact => {
                self.counts.exact_accesses += 1;
                let page = pages[0];
                self.world.name_pending(id, page);
                if !transfer.is_overlapped && !self.is_shared(page) && owner != Some(page) {
                    return Err(format!(
                        "{transfer} reaches {at:?}, CPUs find {page:?} at {:?}",
                        self.world.location(page)
                    ));
                }
                self.note_exact(transfer, id, page)
            }
            DeviceResult::Accepted { id, at, owner } => {
                self.counts.ambiguous_accesses += 1;
                let is_foreign = |owner: Gfn| !pages.contains(&owner);
                if !transfer.is_overlapped && owner.or(self.world.deserted_by(at)).is_some_and(is_foreign) {
                    return Err(format!(
                        "{transfer} reaches {owner:?} at {at:?}, the tables say {reaches:x?}"
                    ));
                }
                if is_write {
                    self.world.deliver(|pending| pending.id == id);
                    self.note_ambiguous(transfer, &pages);
                    self.note_stray(transfer);
                    // It may have gone into an empty slot as well, or into a copy that nobody else sees.
                    let may_be_stray =
                        reaches.iter().any(|reach| matches!(reach, Reach::Page(leaf) if !leaf.write));
                    for roots in possible.iter().flatten().filter(|_| may_be_stray) {
                        self.strays.insert(roots, iova_page);
                        self.late_strays.extend(transfer.is_overlapped.then_some((roots, iova_page)));
                    }
                    for roots in possible.iter().flatten() {
                        self.red_zones.entry((roots, iova_page)).or_insert(false);
                        self.late_red_zones.extend(transfer.is_overlapped.then_some((roots, iova_page)));
                    }
                }
                Ok(())
            }
        }
    }

    fn note_stray(&mut self, transfer: &Transfer) {
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
        granted.0 |= granted.1 && self.setting.board == crate::world::Board::Smmu;
        granted
    }

    fn judge_red_zone(
        &mut self,
        transfer: &Transfer,
        result: DeviceResult,
        at: Hfn,
        owner: Option<Gfn>,
        is_partly_mapped: bool,
    ) -> Checked {
        let DeviceResult::Accepted { id, .. } = result else { return Ok(()) };
        if !is_partly_mapped {
            return Err(format!(
                "{transfer} is accepted (at {at:?}), where nothing of the granule is mapped"
            ));
        }
        if !transfer.is_overlapped
            && let Some(page) = owner.or(self.world.deserted_by(at))
        {
            return Err(format!("{transfer} reaches {page:?} at {at:?}, where nothing is mapped"));
        }
        if self.is_outside_window(transfer) {
            return Err(format!(
                "{transfer} is accepted (at {at:?}), outside of what is mapped of the granule"
            ));
        }
        self.counts.red_zones += 1;
        // Where the registers changed and no flush came yet, the old tables count as well as the new.
        let possible = self.history.possible_roots(transfer.dart, transfer.stream);
        let is_certain = possible.is_certain();
        let keys = || possible.iter().flatten().map(|roots| (roots, transfer.iova_page()));
        if transfer.data.is_some() {
            self.world.deliver(|pending| pending.id == id);
            self.note_stray(transfer);
            // Tables that were refused once may have been taken since: then the page is there after all.
            let is_unsure = keys().any(|key| self.refused_tables.contains(key.0, key.1));
            for key in keys() {
                // In the middle of a sync it may be found by that sync or by the next.
                // One byte or two can be the pattern's own by chance.
                // Where something is mapped that may only be read, the bytes lie in a copy that nobody else sees.
                let is_empty = !self.is_mapped(transfer);
                let must_report = is_empty
                    && !is_unsure
                    && is_certain
                    && transfer.length >= 4
                    && !transfer.is_overlapped
                    && !self.views_are_changing(transfer);
                if !is_empty || is_unsure {
                    self.strays.insert(key.0, key.1);
                    self.late_strays.extend(transfer.is_overlapped.then_some(key));
                }
                let known = self.red_zones.entry(key).or_insert(must_report);
                *known |= must_report;
                self.late_red_zones.extend(transfer.is_overlapped.then_some(key));
            }
            return Ok(());
        }
        // In the middle of a sync it may be about to be refused.
        if self.is_mapped(transfer) && !transfer.is_overlapped && !self.views_are_changing(transfer) {
            return Err(format!("{transfer} is accepted, where a page is mapped that may only be written"));
        }
        let is_clean = !self.red_zones.keys().any(|(_, page)| *page == transfer.iova_page());
        if is_clean && !transfer.is_overlapped && !self.views_are_changing(transfer) {
            let bytes = vec![None; transfer.length];
            self.reads.insert(id, ExpectedRead { transfer: *transfer, page: None, bytes, is_red_zone: true });
            self.world.deliver(|pending| pending.id == id);
            return self.check_answers_at(transfer.offset());
        }
        Ok(())
    }

    /// Whether hardware must refuse the access because no page on one side of it is mapped in its granule.
    fn is_outside_window(&self, transfer: &Transfer) -> bool {
        let Transfer { dart, stream, is_overlapped, .. } = *transfer;
        let has_windows = self.setting.has_windows && self.setting.board == crate::world::Board::Dart;
        if !has_windows || is_overlapped || self.views_are_changing(transfer) {
            return false;
        }
        let slot = transfer.iova_page() & 3;
        let may_be_mapped = |slot: u32| {
            let reaches = self.history.reaches(dart, stream, transfer.iova_page() & !3 | slot);
            reaches.iter().any(|reach| matches!(reach, Reach::Page(leaf) if leaf.read || leaf.write))
        };
        (0..=slot).all(|slot| !may_be_mapped(slot)) || (slot..4).all(|slot| !may_be_mapped(slot))
    }

    /// Whether a page may be mapped there, with whatever rights, and is not refused.
    fn is_mapped(&self, transfer: &Transfer) -> bool {
        let possible = self.history.possible_roots(transfer.dart, transfer.stream);
        if possible.iter().flatten().any(|roots| self.is_refused(roots, transfer.iova_page())) {
            return false;
        }
        let reaches = self.history.reaches(transfer.dart, transfer.stream, transfer.iova_page());
        reaches.iter().any(|reach| matches!(reach, Reach::Page(leaf) if leaf.read || leaf.write))
    }

    /// Whether any slot of the granule could be either of two things.
    fn views_are_changing(&self, transfer: &Transfer) -> bool {
        let Transfer { dart, stream, .. } = *transfer;
        (0..4).any(|slot| self.history.reaches(dart, stream, transfer.iova_page() & !3 | slot).len() > 1)
    }

    fn note_exact(&mut self, transfer: &Transfer, id: u64, page: Gfn) -> Checked {
        let (offset, length) = (transfer.offset(), transfer.length);
        let roots = self.history.roots(transfer.dart, transfer.stream).unwrap_or_default();
        let viewer = viewer(roots, transfer.iova_page());
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
                let possible = self.history.possible_roots(transfer.dart, transfer.stream);
                let is_stray =
                    possible.iter().flatten().any(|roots| self.strays.contains(roots, transfer.iova_page()));
                let byte = |index| {
                    (!is_stray && !self.sharing.is_vague(page, index, viewer)).then_some(memory[index])
                };
                let bytes = (offset..offset + length).map(byte).collect();
                let page = Some((page, self.describe(page)));
                self.reads.insert(id, ExpectedRead { transfer: *transfer, page, bytes, is_red_zone: false });
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
                let Some(words) = self.world.view(page) else { continue };
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

    fn check_answers_at(&mut self, red_offset: usize) -> Checked {
        for (id, data) in self.world.take_answers() {
            let Some(expected) = self.reads.remove(&id) else { continue };
            if expected.is_red_zone {
                self.check_red_pattern(&expected, red_offset, data.bytes())?;
            }
            self.counts.compared_bytes += data.bytes().len() as u64;
            for (index, (found, expected_byte)) in data.bytes().iter().zip(&expected.bytes).enumerate() {
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

    /// Red zones hold one pattern of eight bytes, everywhere; the first one read says which.
    fn check_red_pattern(&mut self, read: &ExpectedRead, offset: usize, bytes: &[u8]) -> Checked {
        if self.red_pattern.is_none() {
            if bytes.len() < 8 {
                return Ok(());
            }
            let mut pattern = [0; 8];
            (0..8).for_each(|index| pattern[(offset + index) % 8] = bytes[index]);
            self.red_pattern = Some(pattern);
        }
        let pattern = self.red_pattern.unwrap_or_default();
        for (index, byte) in bytes.iter().enumerate() {
            if *byte != pattern[(offset + index) % 8] {
                return Err(format!(
                    "{read} sees {bytes:02x?} in a red zone, whose pattern is {pattern:02x?}"
                ));
            }
        }
        Ok(())
    }

    /// Gives the world the accesses that are to happen in the middle of the sync that begins now.
    pub(super) fn queue_overlap(&mut self) {
        for (number, during) in std::mem::take(&mut self.overlap).into_iter().enumerate() {
            // Each has bytes of its own, so that their order among each other does not matter.
            let offset = 256 * (number % 16) + 8 * self.random.index(24);
            let cpu = self.random.index(self.world.cpu_count());
            let access = match during {
                During::CpuLoad(page) | During::CpuStore(page) => {
                    let page = self.choose(page);
                    if self.views.is_table(page) || self.guest.is_table(page) {
                        continue;
                    }
                    self.deliver_to(page, offset, 32);
                    if matches!(during, During::CpuLoad(_)) {
                        Access::Load { cpu, page, offset, length: 8 }
                    } else {
                        Access::Store { cpu, page, offset, data: self.random_data(8) }
                    }
                }
                During::DeviceRead(stream, target) | During::DeviceWrite(stream, target) => {
                    let is_write = matches!(during, During::DeviceWrite(..));
                    let Some(mut transfer) = self.aim(stream, target, 8, is_write) else { continue };
                    transfer.iova = transfer.iova & !0xfff | offset as u64;
                    for page in self.pages_within_reach(&transfer) {
                        self.deliver_to(page, offset, 32);
                    }
                    let (dart, stream) = name(transfer.dart, transfer.stream);
                    let iova = transfer.iova;
                    if is_write {
                        Access::Write { dart, stream, iova, data: self.random_data(8) }
                    } else {
                        Access::Read { dart, stream, iova, length: 8 }
                    }
                }
            };
            self.world.overlap.push_back(access);
        }
    }

    /// Accesses that had to wait for the engine happen now.
    pub(super) fn finish_overlap(&mut self) -> Checked {
        let mut patience = 100;
        while let Some(access) = self.world.overlap.pop_front() {
            match self.world.perform(&access) {
                // What is replayed has happened in this order: these come after all of it.
                Some(Outcome::Cpu(CpuResult::ReadOnly | CpuResult::NoAccess)) => {
                    self.replay()?;
                    match access {
                        Access::Store { page, offset, data, .. } => self.store(page, offset, data.bytes())?,
                        Access::Load { page, offset, length, .. } => self.load(page, offset, length)?,
                        Access::Read { .. } | Access::Write { .. } => {}
                    }
                }
                Some(outcome) => self.world.overlapped.push((access, outcome)),
                None => self.world.overlap.push_back(access),
            }
            patience -= 1;
            if patience == 0 {
                return Err(format!("an access waits for ever: {access:?}"));
            }
        }
        Ok(())
    }

    /// Does on the reference what happened in the middle of the engine's work, and compares.
    pub(super) fn replay(&mut self) -> Checked {
        for (access, outcome) in std::mem::take(&mut self.world.overlapped) {
            self.counts.overlapped += 1;
            match (access, outcome) {
                (Access::Load { page, offset, .. }, Outcome::Cpu(result)) => {
                    self.judge_load(page, offset, result)?
                }
                (Access::Store { page, offset, data, .. }, Outcome::Cpu(CpuResult::Stored)) => {
                    self.note_cpu_store(page, offset, data.bytes());
                }
                (Access::Read { dart, stream, iova, length }, Outcome::Device(result)) => {
                    let (dart, stream) = (dart.index(), stream.index());
                    let data = None;
                    self.judge(&Transfer { dart, stream, iova, length, data, is_overlapped: true }, result)?;
                }
                (Access::Write { dart, stream, iova, data }, Outcome::Device(result)) => {
                    let (dart, stream, length) = (dart.index(), stream.index(), data.bytes().len());
                    let data = Some(data);
                    self.judge(&Transfer { dart, stream, iova, length, data, is_overlapped: true }, result)?;
                }
                (access, outcome) => return Err(format!("{access:?} ends with {outcome:?}")),
            }
        }
        self.check_answers()
    }

    /// The page that a CPU's access means.
    fn choose(&mut self, choice: Choice) -> Gfn {
        self.guest.choose(choice, &mut self.random)
    }
}
