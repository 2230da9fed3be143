//! Accesses of CPUs, and of a disk that no DART translates: whether what came of them is right.

use super::{Checked, Machine};
use crate::program::Choice;
use crate::sharing::CPU;
use oche_engine::{AccessKind, FaultDisposition, Parts};
use oche_sim::access::CpuResult;
use oche_sim::access::Data;
use oche_sim::machine::SimulatedMachine;
use oche_sim::setup::FaultInjection;
use oche_types::addr::{Gfn, PAGE_BYTES};

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

    pub(super) fn place(&mut self, length: usize) -> (usize, usize) {
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
        let cpu = self.random.index(self.host.cpu_count());
        for _ in 0..3 {
            let result = self.host.cpu_load(cpu, page, offset, length);
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
    fn load_trapped(
        &mut self,
        page: Gfn,
        offset: usize,
        length: usize,
    ) -> Checked<Option<CpuResult>> {
        if let Some(result) = self.load_known(page, offset, length) {
            return Ok(Some(result));
        }
        if !self.trap(page, AccessKind::Load)? {
            return Ok(None);
        }
        if self.random.chance(1, 3) {
            let at = self.engine.open_trapped(&mut self.host, page);
            let result = self.host.opened_load(at, offset, length);
            self.engine.close_trapped(&mut self.host, page);
            return Ok(Some(result));
        }
        let mut bytes = [0; 32];
        for (number, chunk) in bytes[..length].chunks_mut(8).enumerate() {
            let offset = offset + 8 * number;
            let value = self.engine.load_trapped(&mut self.host, page, offset, chunk.len());
            chunk.copy_from_slice(&value.to_le_bytes()[..chunk.len()]);
        }
        Ok(Some(CpuResult::Loaded(Data::new(&bytes[..length]))))
    }

    pub(super) fn judge_load(&mut self, page: Gfn, offset: usize, result: CpuResult) -> Checked {
        let CpuResult::Loaded(data) = result else {
            return Err(format!("a CPU's load of {page:?} ends with {result:?}"));
        };
        let Some(memory) = self.history.memory.page(page) else { return Ok(()) };
        self.counts.compared_bytes += data.bytes().len() as u64;
        for (index, (&found, &expected)) in data.bytes().iter().zip(&memory[offset..]).enumerate() {
            let others = self.sharing.others(page, offset + index, CPU);
            if found != expected && !others.contains(&found) {
                return Err(format!(
                    "a CPU loads {found:#04x} at offset {:#x} of {page:?} ({}), not \
                     {expected:#04x} or {others:02x?}",
                    offset + index,
                    self.describe(page)
                ));
            }
        }
        for contested in self.sharing.look(page, offset, data.bytes().len()) {
            self.settle_byte(page, contested, data.bytes()[contested - offset]);
        }
        Ok(())
    }

    /// A CPU stores, on both sides.
    pub(super) fn store(&mut self, page: Gfn, offset: usize, bytes: &[u8]) -> Checked {
        self.deliver_to(page, offset, bytes.len());
        let cpu = self.random.index(self.host.cpu_count());
        for _ in 0..3 {
            match self.host.cpu_store(cpu, page, offset, &Data::new(bytes)) {
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
        if self.store_known(page, offset, bytes) {
            self.note_cpu_store(page, offset, bytes);
            return Ok(true);
        }
        if !self.trap(page, AccessKind::Store)? {
            return Ok(false);
        }
        if self.random.chance(1, 3) {
            let at = self.engine.open_trapped(&mut self.host, page);
            self.host.opened_store(at, offset, &Data::new(bytes));
            if !self.host.injects(FaultInjection::SkipSettle) {
                self.engine.close_trapped(&mut self.host, page);
            }
        } else {
            for (number, chunk) in bytes.chunks(8).enumerate() {
                let mut value = [0; 8];
                value[..chunk.len()].copy_from_slice(chunk);
                let (offset, value) = (offset + 8 * number, u64::from_le_bytes(value));
                self.engine.store_trapped(&mut self.host, page, offset, chunk.len(), value);
            }
        }
        self.note_cpu_store(page, offset, bytes);
        Ok(true)
    }

    /// The parts of an access of `length` bytes by one instruction, mostly.
    fn parts(&mut self, length: usize) -> Option<Parts> {
        let count = 1 + self.random.index(2);
        let is_one = matches!(length / count, 1 | 2 | 4 | 8) && length.is_multiple_of(count);
        (is_one && self.random.chance(2, 3)).then_some(Parts { bytes: length / count, count })
    }

    /// A CPU loads by one instruction, if the page traps for its copies.
    fn load_known(&mut self, page: Gfn, offset: usize, length: usize) -> Option<CpuResult> {
        let parts = self.parts(length)?;
        let values = self.engine.load_known(&mut self.host, at(page, offset), parts)?;
        self.counts.trapped_accesses += 1;
        let mut bytes = [0; 32];
        for (chunk, value) in bytes.chunks_mut(parts.bytes).zip(values).take(parts.count) {
            chunk.copy_from_slice(&value.to_le_bytes()[..parts.bytes]);
        }
        Some(CpuResult::Loaded(Data::new(&bytes[..length])))
    }

    /// A CPU stores by one instruction, if the page traps for its copies.
    fn store_known(&mut self, page: Gfn, offset: usize, bytes: &[u8]) -> bool {
        let Some(parts) = self.parts(bytes.len()) else { return false };
        let mut values = [0; 2];
        for (value, chunk) in values.iter_mut().zip(bytes.chunks(parts.bytes)) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            *value = u64::from_le_bytes(word);
        }
        let is_known = self.engine.store_known(&mut self.host, at(page, offset), parts, values);
        self.counts.trapped_accesses += u64::from(is_known);
        is_known
    }

    /// A CPU executes what lies in a page.
    pub(super) fn fetch(&mut self, page: Choice) -> Checked {
        let page = self.choose(page);
        if self.is_any_stream_between() {
            return Ok(());
        }
        let (offset, length) = self.place(4);
        let result = self.access_untrapped(page, AccessKind::Fetch, |host, cpu| {
            host.cpu_load(cpu, page, offset, length)
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
            let result = self.access_untrapped(page, AccessKind::Walk, |host, cpu| {
                host.cpu_load(cpu, page, offset, 8)
            })?;
            return self.judge_load(page, offset, result);
        }
        if self.views.is_table(page) || self.guest.is_table(page) {
            return Ok(());
        }
        let data = self.random_data(8);
        match self.access_untrapped(page, AccessKind::Walk, |host, cpu| {
            host.cpu_store(cpu, page, offset, &data)
        })? {
            CpuResult::Stored => self.note_cpu_store(page, offset, data.bytes()),
            result => {
                return Err(format!("a CPU's walk that stores into {page:?} ends with {result:?}"));
            }
        }
        Ok(())
    }

    /// An access that cannot be emulated: where it traps, the page's copies
    /// are given up.
    fn access_untrapped(
        &mut self,
        page: Gfn,
        reach: AccessKind,
        access: impl Fn(&mut SimulatedMachine<C>, usize) -> CpuResult,
    ) -> Checked<CpuResult> {
        self.deliver_to(page, 0, PAGE_BYTES);
        let cpu = self.random.index(self.host.cpu_count());
        // Each trap gives up a batch of the copies.
        for _ in 0..50 {
            let result = access(&mut self.host, cpu);
            if !matches!(result, CpuResult::NoAccess | CpuResult::ReadOnly) {
                return Ok(result);
            }
            self.given_up.insert(page);
            self.counts.given_up += 1;
            if self.trap(page, reach)? {
                return Err(format!(
                    "{reach:?} of {page:?} traps, and the engine would carry it out"
                ));
            }
            self.take_events()?;
        }
        Err(format!("{reach:?} of {page:?} traps again and again"))
    }

    /// Whether some stream may use one set of tables or another: a refusal, which names a stream,
    /// may be of either.
    pub(super) fn is_any_stream_between(&self) -> bool {
        let in_use = self.history.streams_in_use();
        in_use.iter().any(|&(dart, stream)| !self.history.possible_roots(dart, stream).is_certain())
    }

    /// A CPU's access traps. Whether the page is guarded; otherwise the access is to be tried
    /// again.
    fn trap(&mut self, page: Gfn, access: AccessKind) -> Checked<bool> {
        let trapped = self.engine.access_trapped(&mut self.host, page.address(), access);
        self.after_call()?;
        match trapped {
            FaultDisposition::Retry => {
                self.counts.retried_traps += 1;
                Ok(false)
            }
            FaultDisposition::Emulate(found) if found == page => {
                self.counts.trapped_accesses += 1;
                Ok(true)
            }
            trapped => {
                Err(format!("{access:?} of {page:?} traps, and the engine answers {trapped:?}"))
            }
        }
    }

    /// Has the engine bring all that devices wrote into copies of `page` to where CPUs look, if it
    /// is guarded.
    pub(super) fn look_at_all_of(&mut self, page: Gfn) -> Checked {
        self.engine.open_trapped(&mut self.host, page);
        self.engine.close_trapped(&mut self.host, page);
        for offset in self.sharing.contested(page) {
            self.adopt(page, offset)?;
        }
        self.sharing.look(page, 0, PAGE_BYTES);
        Ok(())
    }

    /// Takes over the byte that CPUs see where devices contested it.
    pub(super) fn adopt(&mut self, page: Gfn, offset: usize) -> Checked {
        self.deliver_to(page, offset, 1);
        let Some(word) = self.host.view(page).map(|words| words[offset / 8]) else { return Ok(()) };
        let found = word.to_le_bytes()[offset % 8];
        let expected = self.history.memory.page(page).map(|memory| memory[offset]);
        if expected != Some(found) && !self.sharing.others(page, offset, CPU).contains(&found) {
            return Err(format!(
                "CPUs see {found:#04x} at {offset:#x} of {page:?}, which was never written"
            ));
        }
        self.settle_byte(page, offset, found);
        Ok(())
    }

    /// CPUs see `found` where devices contested a byte: it counts from now on.
    fn settle_byte(&mut self, page: Gfn, offset: usize, found: u8) {
        if let Some(old) = self.history.memory.page(page).map(|memory| memory[offset]) {
            self.sharing.keep(page, offset, old);
            self.note_bytes(page, offset, &[found]);
        }
    }

    /// C2: what a CPU stores is in all copies.
    pub(super) fn note_cpu_store(&mut self, page: Gfn, offset: usize, bytes: &[u8]) {
        self.note_bytes(page, offset, bytes);
        self.sharing.clear(page, offset, bytes.len());
    }

    /// The guest's memory changes.
    pub(super) fn note_bytes(&mut self, page: Gfn, offset: usize, bytes: &[u8]) {
        let changed = self.history.store(page, offset, bytes);
        self.views.note_store(&self.history, page, &changed);
    }

    /// Transfers under way to these bytes arrive, as the guest waits for them before it looks.
    pub(super) fn deliver_to(&mut self, page: Gfn, offset: usize, length: usize) {
        if self.host.pending().is_empty() {
            return;
        }
        self.host.deliver(|pending| {
            pending.page == Some(page)
                && pending.offset < offset + length
                && offset < pending.offset + pending.length
        });
    }

    /// The page that a CPU's access means.
    pub(super) fn choose(&mut self, choice: Choice) -> Gfn {
        self.guest.choose(choice, &mut self.random)
    }
}

/// The guest-physical address of a byte.
fn at(page: Gfn, offset: usize) -> u64 {
    page.address() + offset as u64
}
