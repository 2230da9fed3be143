//! The 16 KiB IOMMU: walks the engine's tables, caches entries, and lets writes land late.

use super::SimulatedMachine;
use crate::access::{Data, DeviceResult};
use crate::driver::Step;
use crate::hardware::{Pending, number};
use crate::setup::FaultInjection;
use oche_engine::host::{DeviceFault, DomainId};
use oche_types::addr::{FRAME_BYTES, Gfn, Hfn, HostGranule, PAGE_BYTES, SLOTS, SlotRun};
use oche_types::dart::stream::{DartId, Members, StreamId};

impl<const C: bool> SimulatedMachine<C> {
    /// A device reads; the data is among the answers when the transfer is complete.
    pub fn device_read(
        &mut self,
        dart: DartId,
        stream: StreamId,
        iova: u64,
        length: usize,
    ) -> DeviceResult {
        self.accept(dart, stream, iova, length, None)
    }

    /// A device writes; the bytes land when the transfer is complete.
    pub fn device_write(
        &mut self,
        dart: DartId,
        stream: StreamId,
        iova: u64,
        data: &Data,
    ) -> DeviceResult {
        self.accept(dart, stream, iova, data.bytes().len(), Some(*data))
    }

    fn accept(
        &mut self,
        dart: DartId,
        stream: StreamId,
        iova: u64,
        length: usize,
        data: Option<Data>,
    ) -> DeviceResult {
        let is_write = data.is_some();
        let Some(at) = self.device_translate(dart, stream, iova, is_write) else {
            self.hardware.faults.push_back((dart, DeviceFault { stream, iova, is_write }));
            return DeviceResult::Fault;
        };
        let id = self.hardware.next;
        self.hardware.next += 1;
        let offset = iova as usize % PAGE_BYTES;
        let stream = number(dart, stream);
        self.hardware.pending.push(Pending {
            id,
            page: None,
            offset,
            length,
            at,
            stream,
            has_landed: false,
            data,
        });
        DeviceResult::Accepted { id, at, owner: self.owner(at) }
    }

    fn device_translate(
        &mut self,
        dart: DartId,
        stream: StreamId,
        iova: u64,
        is_write: bool,
    ) -> Option<Hfn> {
        let number = number(dart, stream);
        self.evict(number);
        let granule = iova / FRAME_BYTES as u64;
        let entry = match self.hardware.streams[number].leaves.get(&granule) {
            Some(&(entry, _)) => entry,
            None => {
                let root = self.hardware.streams[number].root?;
                let (entry, at) = self.walk(number, root, granule);
                if (entry & 1 != 0 || C) && self.random.chance(7, 8) {
                    self.hardware.streams[number].leaves.insert(granule, (entry, at));
                }
                entry
            }
        };
        if entry & 1 == 0 {
            return None;
        }
        let Some((frame, permission, slots)) = self.options.board.decode_leaf(entry) else {
            self.violate(format!("a leaf entry {entry:#x} that the hardware does not know"));
            return None;
        };
        if slots != SlotRun::ALL && !self.options.has_windows {
            self.violate(format!("a leaf entry {entry:#x} with a window, where there are none"));
        }
        if !slots.contains(iova as usize / PAGE_BYTES % SLOTS) {
            return None;
        }
        if (is_write && !permission.write) || (!is_write && !permission.read) {
            return None;
        }
        let at = frame.page(iova as usize / PAGE_BYTES);
        if self.memory.index(at).is_none() {
            self.violate(format!(
                "a device reaches {at:?} at IOVA {iova:#x}, where there is no memory"
            ));
            return None;
        }
        if self.hardware.streams.iter().any(|other| other.root == Some(frame)) {
            self.violate(format!(
                "a device reaches a table of the engine, {frame:?}, at IOVA {iova:#x}"
            ));
        }
        Some(at)
    }

    /// The entry of `granule`, and how many invalidations had begun when the older of the two
    /// entries on the way to it was read: an invalidation that begins after that drops what came of
    /// the walk as well.
    fn walk(&mut self, number: usize, root: HostGranule, granule: u64) -> (u64, u32) {
        let upper = granule / 2048;
        let now = self.hardware.streams[number].invalidations;
        let (table, at) = match self.hardware.streams[number].tables.get(&upper) {
            Some(&cached) => cached,
            None => {
                let entry = self.table_word(root, upper as usize);
                if (entry & 1 != 0 || C) && self.random.chance(7, 8) {
                    self.hardware.streams[number].tables.insert(upper, (entry, now));
                }
                (entry, now)
            }
        };
        if table & 1 == 0 {
            return (0, at);
        }
        let entry = match self.options.board.decode_table(table) {
            Some(table) => self.table_word(table, granule as usize % 2048),
            None => {
                self.violate(format!(
                    "a first-level entry {table:#x} that the hardware does not know"
                ));
                0
            }
        };
        (entry, at)
    }

    fn table_word(&mut self, table: HostGranule, word: usize) -> u64 {
        let place = (table.page(word / 512), word % 512);
        if self.hardware.hidden_at == self.cpus.checker().barriers_for_all()
            && let Some(before) = self.hardware.hidden.get(&place)
            && self.random.chance(1, 2)
        {
            return *before;
        }
        match self.memory.index(place.0) {
            Some(index) if !self.memory.is_ram(place.0) => self.memory.word(index, place.1),
            _ => {
                self.violate(format!(
                    "the hardware walks to {table:?}, which is no frame of the engine"
                ));
                0
            }
        }
    }

    fn evict(&mut self, number: usize) {
        if self.random.chance(1, 12) {
            let index = self.random.index(self.hardware.streams[number].leaves.len());
            let stream = &mut self.hardware.streams[number];
            if let Some(&granule) = stream.leaves.keys().nth(index) {
                stream.leaves.remove(&granule);
            }
            if index.is_multiple_of(4) {
                stream.tables.pop_first();
            }
        }
    }

    /// Moves the bytes of the transfers for which `which` holds, oldest first.
    pub fn deliver(&mut self, which: impl Fn(&Pending) -> bool) {
        let mut index = 0;
        while index < self.hardware.pending.len() {
            if which(&self.hardware.pending[index]) {
                self.complete(index);
            } else {
                index += 1;
            }
        }
    }

    /// Moves the bytes of one transfer, whichever.
    pub fn deliver_any(&mut self) {
        if !self.hardware.pending.is_empty() {
            let index = self.random.index(self.hardware.pending.len());
            self.complete(index);
        }
    }

    fn complete(&mut self, index: usize) {
        let pending = self.hardware.pending.remove(index);
        let Some(at) = self.memory.index(pending.at) else { return };
        match pending.data {
            Some(data) => self.memory.set_bytes(at, pending.offset, data.bytes()),
            None => {
                let mut bytes = [0; 32];
                let bytes = &mut bytes[..pending.length.min(32)];
                self.memory.get_bytes(at, pending.offset, bytes);
                self.hardware.answered.push((pending.id, Data::new(bytes)));
            }
        }
    }

    /// The transfers under way.
    pub fn pending(&self) -> &[Pending] {
        &self.hardware.pending
    }

    /// Records that transfer `id` goes to `page`.
    pub fn name_pending(&mut self, id: u64, page: Gfn) {
        for pending in self.hardware.pending.iter_mut().filter(|pending| pending.id == id) {
            pending.page = Some(page);
        }
    }

    /// Takes the answers of reads.
    pub fn take_answers(&mut self) -> Vec<(u64, Data)> {
        std::mem::take(&mut self.hardware.answered)
    }

    /// Carries out a step of the driver.
    pub(crate) fn carry_out(&mut self) {
        let steps = self.driver.take_steps();
        for step in &steps {
            match *step {
                Step::CompleteStores if self.injects(FaultInjection::SkipStoreBarrier) => {}
                Step::CompleteStores => self.cpus.checker().full_barrier(),
                Step::OrderLoads if self.injects(FaultInjection::SkipLoadBarrier) => {}
                Step::OrderLoads => self.deliver(|pending| pending.has_landed),
                Step::Table(number, root) => self.set_table(number, root),
                Step::Begin(..) | Step::End(..) if self.injects(FaultInjection::SkipInvalidate) => {
                }
                Step::Begin(dart, streams) => {
                    for stream in streams.iter() {
                        self.hardware.streams[number(dart, stream)].invalidations += 1;
                    }
                }
                Step::End(dart, streams) => {
                    streams.iter().for_each(|stream| self.end_invalidation(number(dart, stream)));
                }
            }
            self.step();
        }
        self.driver.reuse(steps);
    }

    fn set_table(&mut self, number: usize, root: Option<HostGranule>) {
        let hidden = root.into_iter().flat_map(|root| (0..SLOTS).map(move |slot| root.page(slot)));
        if let Some(hidden) = { hidden }.find(|page| !self.cpus.checker().is_visible_to_all(*page))
        {
            self.violate(format!(
                "a stream's table is {root:?} before all observers see {hidden:?}"
            ));
        }
        self.hardware.streams[number].root = root;
    }

    /// What was cached when the invalidation began is gone, and accesses that were accepted by it
    /// are complete.
    fn end_invalidation(&mut self, number: usize) {
        let stream = &mut self.hardware.streams[number];
        let newest = stream.invalidations;
        stream.leaves.retain(|_, (_, at)| *at == newest);
        stream.tables.retain(|_, (_, at)| *at == newest);
        stream.has_let_go = true;
        if self.injects(FaultInjection::SkipDrain) {
            return;
        }
        self.deliver(|pending| pending.stream == number && !pending.is_write());
        for pending in self.hardware.pending.iter_mut().filter(|pending| pending.stream == number) {
            pending.has_landed = true;
        }
    }

    /// Records the engine's request that nothing be used any more that is there now.
    pub(crate) fn ask_to_let_go(&mut self, dart: DartId, stream: StreamId) {
        self.hardware.streams[number(dart, stream)].has_let_go = false;
    }

    /// Whether that request is complete.
    pub(crate) fn has_let_go(&self, dart: DartId, stream: StreamId) -> bool {
        self.hardware.streams[number(dart, stream)].has_let_go
    }

    /// The domain that a stream is attached to.
    pub(crate) fn set_domain(&mut self, dart: DartId, stream: StreamId, domain: Option<DomainId>) {
        self.hardware.streams[number(dart, stream)].domain = domain;
    }

    /// An invalidation must name streams of its domain alone.
    pub(crate) fn check_members(&self, domain: DomainId, members: &Members) {
        for (dart, streams) in members.iter() {
            for stream in streams.iter() {
                // Blocked: a domain keeps the streams that it lost when the hardware did not
                // answer.
                let attached =
                    self.hardware.streams.get(number(dart, stream)).map(|found| found.domain);
                if !matches!(attached, Some(None)) && attached != Some(Some(domain)) {
                    self.violate(format!(
                        "invalidate of {domain:?} names {dart:?} {stream:?}, not attached to it"
                    ));
                }
            }
        }
    }
}
