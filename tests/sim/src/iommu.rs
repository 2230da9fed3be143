//! The 16K IOMMU: walks the engine's tables, caches what it finds, and lets writes land late.

use crate::driver::Step;
use crate::machine::{Board, Data, FaultInjection, SimulatedMachine};
use oche_engine::host::{DeviceFault, DomainId};
use oche_types::addr::{FRAME_BYTES, Gfn, Hfn, HostGranule, PAGE_BYTES, SLOTS, SlotRun};
use oche_types::dart::entry::Permission;
use oche_types::dart::stream::{DartId, Members, STREAMS, StreamId};
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, VecDeque};

/// What came of a device's access.
#[derive(Clone, Copy, Debug)]
pub enum DeviceResult {
    /// Refused.
    Fault,
    /// Accepted: its translation is fixed, its bytes travel later.
    Accepted {
        /// Names the transfer.
        id: u64,
        /// The page of host memory that it goes to.
        at: Hfn,
        /// The guest page that CPUs found there at that moment.
        owner: Option<Gfn>,
    },
}

/// A transfer under way.
pub struct Pending {
    /// Its name.
    pub id: u64,
    /// The guest page that it goes to, when somebody has found out.
    pub page: Option<Gfn>,
    /// First byte in the page.
    pub offset: usize,
    /// How many bytes.
    pub length: usize,
    at: Hfn,
    stream: usize,
    /// A write that has landed, and that loads need not see yet.
    has_landed: bool,
    /// `None` for a read.
    data: Option<Data>,
}

impl Pending {
    /// DART and stream whose transfer it is.
    pub fn origin(&self) -> (usize, usize) {
        (self.stream / STREAMS, self.stream % STREAMS)
    }

    /// Whether it is a write.
    pub fn is_write(&self) -> bool {
        self.data.is_some()
    }
}

/// Entries that are cached, each with the number of invalidations that had begun.
type Cache = BTreeMap<u64, (u64, u32)>;

#[derive(Default)]
struct Stream {
    /// What the engine has it attached to.
    domain: Option<DomainId>,
    /// The first-level table by which it translates.
    root: Option<HostGranule>,
    invalidations: u32,
    /// Nothing is used any more that was there when the engine asked last.
    has_let_go: bool,
    leaves: Cache,
    tables: Cache,
}

/// All the IOMMUs of the machine.
pub struct Hardware {
    streams: Vec<Stream>,
    next: u64,
    pub(crate) pending: Vec<Pending>,
    /// Reads that were answered, with what they saw.
    pub(crate) answered: Vec<(u64, Data)>,
    pub(crate) faults: VecDeque<DeviceFault>,
    /// What was in words of tables before stores that walks need not see yet, and barriers for all
    /// until these.
    hidden: FxHashMap<(Hfn, usize), u64>,
    hidden_at: u64,
}

impl Hardware {
    /// `darts` IOMMUs, every stream blocked.
    pub fn new(darts: usize) -> Self {
        let streams = (0..darts * STREAMS).map(|_| Stream::default()).collect();
        Self {
            streams,
            next: 0,
            pending: Vec::new(),
            answered: Vec::new(),
            faults: VecDeque::new(),
            hidden: FxHashMap::default(),
            hidden_at: 0,
        }
    }

    /// The engine stores into a word of a table, where `before` was, when there were `barriers` for
    /// all observers.
    pub(crate) fn note_store(&mut self, place: (Hfn, usize), before: u64, barriers: u64) {
        if self.hidden_at != barriers {
            self.hidden.clear();
            self.hidden_at = barriers;
        }
        self.hidden.entry(place).or_insert(before);
    }
}

fn number(dart: DartId, stream: StreamId) -> usize {
    dart.index() * STREAMS + stream.index()
}

impl<const C: bool> SimulatedMachine<C> {
    /// A device reads; what it saw appears among the answers when it has travelled.
    pub fn device_read(
        &mut self,
        dart: DartId,
        stream: StreamId,
        iova: u64,
        length: usize,
    ) -> DeviceResult {
        self.accept(dart, stream, iova, length, None)
    }

    /// A device writes; the bytes land when they have travelled.
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
            self.hardware.faults.push_back(DeviceFault { dart, stream, iova, is_write });
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

    /// Takes note that transfer `id` goes to `page`.
    pub fn name_pending(&mut self, id: u64, page: Gfn) {
        for pending in self.hardware.pending.iter_mut().filter(|pending| pending.id == id) {
            pending.page = Some(page);
        }
    }

    /// Takes the answers of reads.
    pub fn take_answers(&mut self) -> Vec<(u64, Data)> {
        std::mem::take(&mut self.hardware.answered)
    }

    /// Carries out what the driver did.
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

    /// The engine asks that nothing be used any more that is there now.
    pub(crate) fn ask_to_let_go(&mut self, dart: DartId, stream: StreamId) {
        self.hardware.streams[number(dart, stream)].has_let_go = false;
    }

    /// Whether that is so.
    pub(crate) fn has_let_go(&self, dart: DartId, stream: StreamId) -> bool {
        self.hardware.streams[number(dart, stream)].has_let_go
    }

    /// What the engine has a stream attached to.
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

impl Board {
    /// The leaf entry for `slots` of `frame`. The window is in units of four bytes, its end
    /// included; bit 1 turns it off. Source: U-Boot `apple_dart.c` and OpenBSD `apldart.c`; Linux
    /// always writes the whole page.
    pub fn leaf_entry(self, frame: HostGranule, permission: Permission, slots: SlotRun) -> u64 {
        match self {
            Self::Dart => {
                let no_read = u64::from(!permission.read) << 8;
                let no_write = u64::from(!permission.write) << 7;
                let start = slots.first() as u64 * 1024;
                let end = slots.last() as u64 * 1024 + 1023;
                let is_off = u64::from(slots == SlotRun::ALL) << 1;
                frame.address() | start << 52 | end << 40 | no_read | no_write | is_off | 1
            }
            // Valid page, access flag, inner shareable, unprivileged; AP[2] forbids writes. Reads
            // cannot be forbidden alone.
            Self::Smmu if permission.is_none() => 0,
            Self::Smmu => {
                frame.address()
                    | 1 << 10
                    | 0b11 << 8
                    | u64::from(!permission.write) << 7
                    | 1 << 6
                    | 0b11
            }
        }
    }

    /// The first-level entry for the leaf table in `table`.
    pub fn table_entry(self, table: HostGranule) -> u64 {
        match self {
            Self::Dart => table.address() | 0b01,
            Self::Smmu => table.address() | 0b11,
        }
    }

    pub(crate) fn decode_leaf(self, entry: u64) -> Option<(HostGranule, Permission, SlotRun)> {
        let frame = HostGranule((entry >> 14 & 0x3f_ffff) as u32);
        let (permission, slots) = match self {
            Self::Dart => {
                let (first, last) = (entry >> 62 & 3, entry >> 50 & 3);
                let permission =
                    Permission { read: entry >> 8 & 1 == 0, write: entry >> 7 & 1 == 0 };
                (permission, SlotRun::new(first as usize, last as usize)?)
            }
            Self::Smmu => (Permission { read: true, write: entry >> 7 & 1 == 0 }, SlotRun::ALL),
        };
        (self.leaf_entry(frame, permission, slots) == entry).then_some((frame, permission, slots))
    }

    pub(crate) fn decode_table(self, entry: u64) -> Option<HostGranule> {
        let frame = HostGranule((entry >> 14 & 0x3f_ffff) as u32);
        (self.table_entry(frame) == entry).then_some(frame)
    }
}
