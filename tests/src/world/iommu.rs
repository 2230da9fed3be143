//! The 16K IOMMU: walks the engine's tables, caches what it finds, and lets writes land late.

use super::{Board, Data, Sabotage, StrictWorld};
use oche_hyp::addr::{FRAME_BYTES, Frame, Gfn, Hfn, PAGE_BYTES, SLOTS, SlotRun};
use oche_hyp::dart::entry::Permission;
use oche_hyp::dart::stream::{DartId, Members, STREAMS, StreamId};
use oche_hyp::world::{DeviceFault, SpaceId};
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

#[derive(Default)]
struct Stream {
    attached: Option<(SpaceId, Frame)>,
    leaves: BTreeMap<u64, u64>,
    tables: BTreeMap<u64, u64>,
}

/// All the IOMMUs of the machine.
pub struct Hardware {
    streams: Vec<Stream>,
    next: u64,
    pub(crate) pending: Vec<Pending>,
    /// Reads that were answered, with what they saw.
    pub(crate) answered: Vec<(u64, Data)>,
    pub(crate) faults: VecDeque<DeviceFault>,
}

impl Hardware {
    /// `darts` IOMMUs, every stream blocked.
    pub fn new(darts: usize) -> Self {
        let streams = (0..darts * STREAMS).map(|_| Stream::default()).collect();
        Self { streams, next: 0, pending: Vec::new(), answered: Vec::new(), faults: VecDeque::new() }
    }
}

fn number(dart: DartId, stream: StreamId) -> usize {
    dart.index() * STREAMS + stream.index()
}

impl<const C: bool> StrictWorld<C> {
    /// A device reads; what it saw appears among the answers when it has travelled.
    pub fn device_read(&mut self, dart: DartId, stream: StreamId, iova: u64, length: usize) -> DeviceResult {
        self.accept(dart, stream, iova, length, None)
    }

    /// A device writes; the bytes land when they have travelled.
    pub fn device_write(&mut self, dart: DartId, stream: StreamId, iova: u64, data: &Data) -> DeviceResult {
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
        self.hardware.pending.push(Pending { id, page: None, offset, length, at, stream, data });
        DeviceResult::Accepted { id, at, owner: self.owner(at) }
    }

    fn device_translate(&mut self, dart: DartId, stream: StreamId, iova: u64, is_write: bool) -> Option<Hfn> {
        let number = number(dart, stream);
        let (_, root) = self.hardware.streams[number].attached?;
        self.evict(number);
        let granule = iova / FRAME_BYTES as u64;
        let entry = match self.hardware.streams[number].leaves.get(&granule) {
            Some(&entry) => entry,
            None => {
                let entry = self.walk(number, root, granule);
                if (entry & 1 != 0 || C) && self.random.chance(7, 8) {
                    self.hardware.streams[number].leaves.insert(granule, entry);
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
            self.violate(format!("a device reaches {at:?} at IOVA {iova:#x}, where there is no memory"));
            return None;
        }
        if self.hardware.streams.iter().any(|other| other.attached.is_some_and(|(_, root)| root == frame)) {
            self.violate(format!("a device reaches a table of the engine, {frame:?}, at IOVA {iova:#x}"));
        }
        Some(at)
    }

    fn walk(&mut self, number: usize, root: Frame, granule: u64) -> u64 {
        let upper = granule / 2048;
        let table = match self.hardware.streams[number].tables.get(&upper) {
            Some(&entry) => entry,
            None => {
                let entry = self.table_word(root, upper as usize);
                if (entry & 1 != 0 || C) && self.random.chance(7, 8) {
                    self.hardware.streams[number].tables.insert(upper, entry);
                }
                entry
            }
        };
        if table & 1 == 0 {
            return 0;
        }
        match self.options.board.decode_table(table) {
            Some(table) => self.table_word(table, granule as usize % 2048),
            None => {
                self.violate(format!("a first-level entry {table:#x} that the hardware does not know"));
                0
            }
        }
    }

    fn table_word(&self, table: Frame, word: usize) -> u64 {
        match self.memory.index(table.page(word / 512)) {
            Some(index) if !self.memory.is_ram(table.page(word / 512)) => self.memory.word(index, word % 512),
            _ => {
                self.violate(format!("the hardware walks to {table:?}, which is no frame of the engine"));
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

    fn drain(&mut self, number: usize) {
        if !self.is_sabotaged(Sabotage::SkipDrain) {
            self.deliver(|pending| pending.stream == number);
        }
    }

    pub(super) fn iommu_attach(&mut self, dart: DartId, stream: StreamId, space: SpaceId, root: Frame) {
        let number = number(dart, stream);
        self.drain(number);
        self.hardware.streams[number] = Stream { attached: Some((space, root)), ..Stream::default() };
    }

    pub(super) fn iommu_block(&mut self, dart: DartId, stream: StreamId) {
        let number = number(dart, stream);
        self.drain(number);
        self.hardware.streams[number] = Stream::default();
    }

    pub(super) fn iommu_invalidate(&mut self, space: SpaceId, members: &Members) {
        for (dart, streams) in members.iter() {
            for stream in streams.iter() {
                let number = number(dart, stream);
                match self.hardware.streams.get_mut(number) {
                    Some(found) if found.attached.is_some_and(|(attached, _)| attached == space) => {
                        found.leaves.clear();
                        found.tables.clear();
                        self.drain(number);
                    }
                    // Blocked: a space keeps the streams that it lost when the hardware did not answer.
                    Some(found) if found.attached.is_none() => {}
                    _ => self.violate(format!(
                        "invalidate of {space:?} names {dart:?} {stream:?}, not attached to it"
                    )),
                }
            }
        }
    }
}

impl Board {
    /// The leaf entry for `slots` of `frame`. The window is in units of four bytes, its end included; bit 1 turns it off.
    /// Source: U-Boot `apple_dart.c` and OpenBSD `apldart.c`; Linux always writes the whole page.
    pub fn leaf_entry(self, frame: Frame, permission: Permission, slots: SlotRun) -> u64 {
        match self {
            Self::Dart => {
                let no_read = u64::from(!permission.read) << 8;
                let no_write = u64::from(!permission.write) << 7;
                let start = slots.first() as u64 * 1024;
                let end = slots.last() as u64 * 1024 + 1023;
                let is_off = u64::from(slots == SlotRun::ALL) << 1;
                frame.address() | start << 52 | end << 40 | no_read | no_write | is_off | 1
            }
            // Valid page, access flag, inner shareable, unprivileged; AP[2] forbids writes. Reads cannot be
            // forbidden alone.
            Self::Smmu if permission.is_none() => 0,
            Self::Smmu => {
                frame.address() | 1 << 10 | 0b11 << 8 | u64::from(!permission.write) << 7 | 1 << 6 | 0b11
            }
        }
    }

    /// The first-level entry for the leaf table in `table`.
    pub fn table_entry(self, table: Frame) -> u64 {
        match self {
            Self::Dart => table.address() | 0b01,
            Self::Smmu => table.address() | 0b11,
        }
    }

    pub(super) fn decode_leaf(self, entry: u64) -> Option<(Frame, Permission, SlotRun)> {
        let frame = Frame((entry >> 14 & 0x3f_ffff) as u32);
        let (permission, slots) = match self {
            Self::Dart => {
                let (first, last) = (entry >> 62 & 3, entry >> 50 & 3);
                let permission = Permission { read: entry >> 8 & 1 == 0, write: entry >> 7 & 1 == 0 };
                (permission, SlotRun::new(first as usize, last as usize)?)
            }
            Self::Smmu => (Permission { read: true, write: entry >> 7 & 1 == 0 }, SlotRun::ALL),
        };
        (self.leaf_entry(frame, permission, slots) == entry).then_some((frame, permission, slots))
    }

    pub(super) fn decode_table(self, entry: u64) -> Option<Frame> {
        let frame = Frame((entry >> 14 & 0x3f_ffff) as u32);
        (self.table_entry(frame) == entry).then_some(frame)
    }
}
