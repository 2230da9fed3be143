//! A guest, a machine and a device for the engine's own tests: as simple as can be, with no caches.
//!
//! The simulated machine, with stale TLBs and late writes, is in the `tests` crate. This one is for
//! reading: one test, one rule.

use std::cell::Cell;
use std::collections::BTreeMap;

use oche_engine::host::{
    CpuAccess, DeviceFault, DomainId, InvalidateTimedOut, Iommu, Memory, OutOfTables, Stage2,
    TraceSink,
};
use oche_engine::{AccessKind, Configuration, Engine, FaultDisposition, Isolation};
use oche_types::addr::{Gfn, Hfn, HostGranule, IovaPage, PAGE_BYTES, PAGE_WORDS, SlotRun};
use oche_types::dart::entry::{Permission, encode_leaf, encode_table};
use oche_types::dart::registers::{STREAM_COMMAND, STREAM_SELECT, STREAMS_ENABLE, TCR, TTBR};
use oche_types::dart::stream::{DartId, Members, StreamId};
use oche_types::event::Event;

/// First page of guest RAM; 256 pages follow.
pub(crate) const RAM: u32 = 0x1000;
/// First frame of the pool.
pub(crate) const POOL: u32 = 0x8000;
const RAM_PAGES: u32 = 256;
/// Number of the page with the guest's first-level table; leaf tables follow.
pub(crate) const FIRST_TABLE: u32 = 192;
const TABLES: u32 = RAM + FIRST_TABLE;

/// Memory, stage 2, IOMMU and ear.
#[derive(Default)]
pub(crate) struct Machine {
    pages: BTreeMap<Hfn, Box<[u8; PAGE_BYTES]>>,
    /// Pages that are not at home or not fully accessible; `None` while in motion.
    stage2: BTreeMap<Gfn, Option<(Hfn, CpuAccess)>>,
    roots: BTreeMap<(DartId, StreamId), HostGranule>,
    pub(crate) faults: Vec<DeviceFault>,
    pub(crate) events: Vec<Event>,
    /// Whether events go nowhere, as where the trace is compiled out.
    pub(crate) is_deaf: bool,
    pub(crate) invalidations: usize,
    /// Words that the engine loaded and stored.
    pub(crate) words: Cell<usize>,
    /// How often CPUs' translations of broken pages were flushed.
    pub(crate) flushes: usize,
    /// Called once by the next invalidation, while the hardware drains.
    pub(crate) during_drain: Option<fn(&mut Machine)>,
    /// Whether an entry can be limited to a run of slots.
    pub(crate) has_windows: bool,
    /// Whether invalidations time out.
    pub(crate) is_stuck: bool,
    /// Which word of a table the machine says has changed, though a page has 512.
    pub(crate) lie: Option<usize>,
    /// Whether something that it was asked is not known to be done.
    pub(crate) is_unconfirmed: bool,
    /// Frames that the engine has said nobody reaches any more.
    pub(crate) released: Vec<HostGranule>,
    /// Pages of which stage 2 has no memory left to make an entry.
    pub(crate) unsplittable: Vec<Gfn>,
}

impl Machine {
    /// Every byte, every stage-2 entry, every root and what the hardware was asked to do, as text.
    pub(crate) fn state(&self) -> String {
        format!("{:?} {:?} {:?} {}", self.pages, self.stage2, self.roots, self.invalidations)
    }

    fn bytes(&mut self, page: Hfn) -> &mut [u8; PAGE_BYTES] {
        self.pages.entry(page).or_insert_with(|| Box::new([0; PAGE_BYTES]))
    }

    /// Where a device's access at `iova` ends up, and what it may do there.
    pub(crate) fn walk(
        &self,
        dart: DartId,
        stream: StreamId,
        iova: u64,
    ) -> Option<(Hfn, Permission)> {
        let root = self.roots.get(&(dart, stream))?;
        let load = |table: HostGranule, index: u64| {
            self.load(table.page(index as usize / 512), index as usize % 512)
        };
        let first = load(*root, iova >> 25);
        let leaf =
            (first & 1 != 0).then(|| load(HostGranule((first >> 2) as u32), iova >> 14 & 2047))?;
        let permission = Permission { read: leaf & 2 != 0, write: leaf & 4 != 0 };
        let slot = iova >> 12 & 3;
        let is_inside = (leaf >> 48 & 3..=leaf >> 50 & 3).contains(&slot);
        let frame = HostGranule((leaf >> 3) as u32);
        (leaf & 1 != 0 && is_inside).then_some((frame.page(slot as usize), permission))
    }

    pub(crate) fn device_read(&mut self, dart: DartId, stream: StreamId, iova: u64) -> Option<u8> {
        let (page, permission) =
            self.walk(dart, stream, iova).filter(|(_, allowed)| allowed.read)?;
        assert!(permission.read);
        self.bytes(page).get(iova as usize % PAGE_BYTES).copied()
    }

    pub(crate) fn device_write(
        &mut self,
        dart: DartId,
        stream: StreamId,
        iova: u64,
        value: u8,
    ) -> bool {
        let Some((page, _)) = self.walk(dart, stream, iova).filter(|(_, allowed)| allowed.write)
        else {
            self.faults.push(DeviceFault { dart, stream, iova, is_write: true });
            return false;
        };
        self.bytes(page)[iova as usize % PAGE_BYTES] = value;
        true
    }

    fn cpu_page(&self, page: Gfn) -> Hfn {
        match self.stage2.get(&page) {
            Some(Some((at, _))) => *at,
            Some(None) => panic!("{page:?} was left in motion"),
            None => page.home(),
        }
    }

    pub(crate) fn cpu_read(&mut self, page: Gfn, offset: usize) -> u8 {
        let at = self.cpu_page(page);
        self.bytes(at)[offset]
    }

    pub(crate) fn cpu_write(&mut self, page: Gfn, offset: usize, value: u8) {
        let at = self.cpu_page(page);
        self.bytes(at)[offset] = value;
    }

    pub(crate) fn cpu_access(&self, page: Gfn) -> CpuAccess {
        match self.stage2.get(&page) {
            Some(Some((_, access))) => *access,
            Some(None) => panic!("{page:?} was left in motion"),
            None => CpuAccess::ReadWrite,
        }
    }

    /// A store where the engine said that the page lies.
    pub(crate) fn direct_store(&mut self, at: Hfn, offset: usize, value: u8) {
        self.bytes(at)[offset] = value;
    }

    /// A device's write to page 5, byte 41, that was translated while the page was at home.
    pub(crate) fn late_home_write(&mut self) {
        self.bytes(page(5).home())[41] = 0xee;
    }

    /// A device's write to byte 41 of slot 1, wherever in the pool its granule's frame is.
    pub(crate) fn late_red_zone_write(&mut self) {
        (POOL..POOL + 32).for_each(|frame| self.bytes(HostGranule(frame).page(1))[41] = 0xee);
    }

    /// A device's write to byte 41 of slot 2 of the granule at IOVA page 8, translated while
    /// nothing was mapped there.
    pub(crate) fn late_stray_write(&mut self) {
        let found = self.walk(dart(0), stream(0), 10 << 12);
        self.bytes(found.expect("a relocated granule").0)[41] = 0xee;
    }

    /// Another CPU turns over every entry of the first 2 MiB, now and in every invalidation: what
    /// is mapped is unmapped, and the rest mapped to any of 128 pages.
    pub(crate) fn another_cpu_scribbles(&mut self) {
        let table = self.cpu_page(Gfn(TABLES + 1));
        for iova in 0..512 {
            let entry = encode_leaf(page(iova & 127), Permission::READ_ONLY);
            let entry = if self.load(table, iova as usize) == 0 { entry } else { 0 };
            self.store(table, iova as usize, entry);
        }
        self.during_drain = Some(Self::another_cpu_scribbles);
    }

    /// Number of the page that the guest's tables now name at page `iova` of the first 2 MiB.
    pub(crate) fn scribbled(&self, iova: u32) -> Option<u32> {
        let entry = self.load(self.cpu_page(Gfn(TABLES + 1)), iova as usize);
        (entry != 0).then_some(iova & 127)
    }

    /// Stores the guest's entry for page `iova` of the first 2 MiB where the table lies, as a bus
    /// master does.
    pub(crate) fn master_maps(&mut self, iova: u32, number: u32) {
        let table = self.cpu_page(Gfn(TABLES + 1));
        self.store(table, iova as usize, encode_leaf(page(number), Permission::READ_WRITE));
    }

    /// Stores an entry of a table in page `number` of the guest, wherever the table is of use.
    pub(crate) fn set_entry(&mut self, number: u32, index: usize, entry: u64) {
        let table = self.cpu_page(page(number));
        self.store(table, index, entry);
    }

    /// The guest's entry for the first 2 MiB.
    pub(crate) fn first_level_entry(&self) -> u64 {
        self.load(self.cpu_page(Gfn(TABLES)), 0)
    }

    /// Stores the guest's entry for 2 MiB number `index`.
    pub(crate) fn set_first_level_entry(&mut self, index: usize, entry: u64) {
        self.store(self.cpu_page(Gfn(TABLES)), index, entry);
    }

    pub(crate) fn home_byte(&mut self, page: Gfn, offset: usize) -> u8 {
        self.bytes(page.home())[offset]
    }
}

impl Memory for Machine {
    fn load(&self, page: Hfn, word: usize) -> u64 {
        self.words.set(self.words.get() + 1);
        let Some(bytes) = self.pages.get(&page) else { return 0 };
        u64::from_le_bytes(bytes[word * 8..][..8].try_into().expect("eight bytes"))
    }

    fn store(&mut self, page: Hfn, word: usize, value: u64) {
        self.words.set(self.words.get() + 1);
        self.bytes(page)[word * 8..][..8].copy_from_slice(&value.to_le_bytes());
    }

    fn first_change(&self, page: Hfn, known: &[u64; PAGE_WORDS], word: usize) -> Option<usize> {
        self.lie.or_else(|| (word..PAGE_WORDS).find(|word| self.load(page, *word) != known[*word]))
    }

    fn store_aligned(&mut self, page: Hfn, offset: usize, width_log2: u8, value: u64) {
        self.words.set(self.words.get() + 1);
        let bytes = 1 << width_log2;
        assert!(offset.is_multiple_of(bytes));
        self.bytes(page)[offset..][..bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    }

    fn release(&mut self, frame: HostGranule) {
        self.released.push(frame);
    }
}

impl Stage2 for Machine {
    fn prepare(&mut self, page: Gfn) -> Result<(), OutOfTables> {
        if self.unsplittable.contains(&page) {
            return Err(OutOfTables);
        }
        self.stage2.entry(page).or_insert(Some((page.home(), CpuAccess::ReadWrite)));
        Ok(())
    }

    fn break_page(&mut self, page: Gfn) {
        let entry = self.stage2.insert(page, None);
        assert!(matches!(entry, Some(Some(_))), "{page:?} is broken unprepared or twice");
    }

    fn flush_broken(&mut self) {
        self.flushes += 1;
    }

    fn make_page(&mut self, page: Gfn, at: Hfn, access: CpuAccess) {
        let entry = self.stage2.insert(page, Some((at, access)));
        assert_eq!(entry, Some(None), "{page:?} is made without a break");
    }

    fn publish(&mut self) {}
}

impl Iommu for Machine {
    const CACHES_INVALID_ENTRIES: bool = true;
    const CAN_FORBID_READS: bool = true;

    fn has_windows(&self) -> bool {
        self.has_windows
    }

    fn leaf_entry(&self, frame: HostGranule, permission: Permission, slots: SlotRun) -> u64 {
        let window = (slots.first() as u64) << 48 | (slots.last() as u64) << 50;
        window
            | u64::from(frame.0) << 3
            | u64::from(permission.write) << 2
            | u64::from(permission.read) << 1
            | 1
    }

    fn table_entry(&self, table: HostGranule) -> u64 {
        u64::from(table.0) << 2 | 1
    }

    fn attach(
        &mut self,
        dart: DartId,
        stream: StreamId,
        _domain: DomainId,
        root: HostGranule,
    ) -> Result<(), InvalidateTimedOut> {
        if self.is_stuck {
            self.roots.remove(&(dart, stream));
            return Err(InvalidateTimedOut);
        }
        self.roots.insert((dart, stream), root);
        Ok(())
    }

    fn block(&mut self, dart: DartId, stream: StreamId) {
        self.roots.remove(&(dart, stream));
    }

    fn invalidate(
        &mut self,
        _domain: DomainId,
        _members: &Members,
    ) -> Result<(), InvalidateTimedOut> {
        self.invalidations += 1;
        if let Some(device) = self.during_drain.take() {
            device(self);
        }
        if self.is_stuck { Err(InvalidateTimedOut) } else { Ok(()) }
    }

    fn is_confirmed(&mut self) -> bool {
        !self.is_unconfirmed
    }

    fn next_fault(&mut self) -> Option<DeviceFault> {
        if self.faults.is_empty() { None } else { Some(self.faults.remove(0)) }
    }
}

impl TraceSink for Machine {
    fn event(&mut self, event: Event) {
        if !self.is_deaf {
            self.events.push(event);
        }
    }
}

/// A guest that drives DART 0 and 1 as Linux does.
pub(crate) struct Bench {
    pub(crate) machine: Machine,
    pub(crate) engine: Engine,
}

/// DART number `index`.
pub(crate) fn dart(index: usize) -> DartId {
    DartId::new(index).expect("tests name DARTs that exist")
}

/// Stream number `index`.
pub(crate) fn stream(index: usize) -> StreamId {
    StreamId::new(index).expect("tests name streams that exist")
}

/// Page `index` of guest RAM. Page 0 begins a 16K-aligned frame.
pub(crate) fn page(index: u32) -> Gfn {
    Gfn(RAM + index)
}

impl Bench {
    /// A machine with `frames` frames of pool, DART 0's stream 0 translating through empty tables.
    /// Byte 0 of guest page n holds n.
    pub(crate) fn new(frames: u32) -> Self {
        Self::with(frames, Isolation::Page)
    }

    /// As [`Self::new`], with what a person may choose.
    pub(crate) fn with(frames: u32, isolation: Isolation) -> Self {
        let mut machine = Machine::default();
        let configuration = Configuration {
            darts: 2,
            ram: &[Gfn(RAM)..Gfn(RAM + RAM_PAGES)],
            pool: HostGranule(POOL)..HostGranule(POOL + frames),
            isolation,
        };
        let engine = Engine::new(&configuration, &mut machine);
        let mut bench = Self { machine, engine };
        for index in 0..192 {
            bench.machine.cpu_write(page(index), 0, index as u8);
        }
        bench.attach(0, 0);
        bench.machine.events.clear();
        bench
    }

    /// Points a stream at the guest's tables and flushes it.
    pub(crate) fn attach(&mut self, dart: usize, stream: usize) {
        self.write(dart, STREAMS_ENABLE, 0xffff);
        self.write(dart, TTBR + 16 * stream as u64, 1 << 31 | TABLES);
        self.write(dart, TCR + 4 * stream as u64, 1 << 7);
        self.flush(dart, stream);
    }

    pub(crate) fn write(&mut self, number: usize, offset: u64, value: u32) {
        let written = self.engine.write(&mut self.machine, dart(number), offset, 4, value);
        assert_eq!(written, Ok(()));
    }

    pub(crate) fn read(&mut self, number: usize, offset: u64) -> u32 {
        self.engine.read(&mut self.machine, dart(number), offset, 4).expect("a register is there")
    }

    /// Sets the guest's entry for page `iova` (a page number below 1024), without a flush.
    pub(crate) fn set(&mut self, iova: u32, leaf: Option<(Gfn, Permission)>) {
        self.set_raw(iova, leaf.map_or(0, |(page, permission)| encode_leaf(page, permission)));
    }

    /// As [`Self::set`], any bits.
    pub(crate) fn set_raw(&mut self, iova: u32, entry: u64) {
        let table = Gfn(TABLES + 1 + (iova >> 9));
        self.store(Gfn(TABLES), (iova >> 9) as usize, encode_table(table));
        self.store(table, (iova & 511) as usize, entry);
    }

    /// Clears the guest's entry for the first 2 MiB, without a flush.
    pub(crate) fn clear_first_level_entry(&mut self) {
        self.store(Gfn(TABLES), 0, 0);
    }

    /// Maps one page in a table that is linked already, with no store into the first level, and
    /// flushes.
    pub(crate) fn map_below(&mut self, iova: u32, number: u32) {
        let entry = encode_leaf(page(number), Permission::READ_WRITE);
        self.store(Gfn(TABLES + 1 + (iova >> 9)), (iova & 511) as usize, entry);
        self.flush(0, 0);
    }

    fn store(&mut self, page: Gfn, word: usize, value: u64) {
        if self.machine.cpu_access(page) != CpuAccess::ReadWrite {
            let trapped =
                self.engine.access_trapped(&mut self.machine, page.address(), AccessKind::Store);
            assert_eq!(trapped, FaultDisposition::Retry);
            assert_eq!(
                self.machine.cpu_access(page),
                CpuAccess::ReadWrite,
                "a trapped store must be able to go on"
            );
        }
        let at = self.machine.cpu_page(page);
        self.machine.store(at, word, value);
    }

    /// A CPU loads byte `offset` of page `number`, as the trap of the page asks for.
    pub(crate) fn cpu_load(&mut self, number: u32, offset: usize) -> u8 {
        if self.machine.cpu_access(page(number)) != CpuAccess::None {
            return self.machine.cpu_read(page(number), offset);
        }
        match self.trap(number, AccessKind::Load) {
            FaultDisposition::Emulate(page) => {
                self.engine.load_trapped(&mut self.machine, page, offset, 1) as u8
            }
            trapped => {
                assert_eq!(trapped, FaultDisposition::Retry);
                assert_ne!(self.machine.cpu_access(page(number)), CpuAccess::None);
                self.machine.cpu_read(page(number), offset)
            }
        }
    }

    /// A CPU stores to byte `offset` of page `number`, as the trap of the page asks for.
    pub(crate) fn cpu_store(&mut self, number: u32, offset: usize, value: u8) {
        if self.machine.cpu_access(page(number)) == CpuAccess::ReadWrite {
            return self.machine.cpu_write(page(number), offset, value);
        }
        match self.trap(number, AccessKind::Store) {
            FaultDisposition::Emulate(page) => {
                self.engine.store_trapped(&mut self.machine, page, offset, 1, value.into());
            }
            trapped => {
                assert_eq!(trapped, FaultDisposition::Retry);
                assert_eq!(self.machine.cpu_access(page(number)), CpuAccess::ReadWrite);
                self.machine.cpu_write(page(number), offset, value);
            }
        }
    }

    /// Tells the engine of a CPU's access that stage 2 stopped.
    pub(crate) fn trap(&mut self, number: u32, access: AccessKind) -> FaultDisposition {
        self.engine.access_trapped(&mut self.machine, page(number).address(), access)
    }

    /// Invalidates a stream.
    pub(crate) fn flush(&mut self, dart: usize, stream: usize) {
        self.write(dart, STREAM_SELECT, 1 << stream);
        self.write(dart, STREAM_COMMAND, 1 << 20);
        assert_eq!(self.read(dart, STREAM_COMMAND) & 4, 0);
    }

    /// Maps pages read-write from page `iova` on, and flushes.
    pub(crate) fn map(&mut self, iova: u32, pages: &[u32]) {
        for (index, number) in pages.iter().enumerate() {
            self.set(iova + index as u32, Some((page(*number), Permission::READ_WRITE)));
        }
        self.flush(0, 0);
    }

    /// Unmaps `count` pages from page `iova` on, and flushes.
    pub(crate) fn unmap(&mut self, iova: u32, count: u32) {
        (iova..iova + count).for_each(|iova| self.set(iova, None));
        self.flush(0, 0);
    }

    /// What stream 0 of DART 0 reads at byte `offset` of page `iova`.
    pub(crate) fn device_read(&mut self, iova: u32, offset: u64) -> Option<u8> {
        self.machine.device_read(dart(0), stream(0), IovaPage(iova).iova() + offset)
    }

    /// Has stream 0 of DART 0 write. False: a fault.
    pub(crate) fn device_write(&mut self, iova: u32, offset: u64, value: u8) -> bool {
        self.machine.device_write(dart(0), stream(0), IovaPage(iova).iova() + offset, value)
    }

    pub(crate) fn is_home(&self, number: u32) -> bool {
        self.engine.locate(page(number)) == page(number).home()
    }

    /// Events so far that `is_it` accepts.
    pub(crate) fn count(&self, is_it: impl Fn(&Event) -> bool) -> usize {
        self.machine.events.iter().filter(|event| is_it(event)).count()
    }
}
