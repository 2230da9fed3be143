//! The machine of the engine's own tests.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;

use oche_engine::host::{
    CpuAccess, DeviceFault, DomainId, InvalidateTimedOut, Iommu, Memory, OutOfTables, Stage2,
    TraceSink,
};
use oche_types::addr::{Gfn, Hfn, HostGranule, PAGE_BYTES, PAGE_WORDS, SlotRun};
use oche_types::dart::entry::{Permission, encode_leaf};
use oche_types::dart::stream::{DartId, Members, StreamId};
use oche_types::event::Event;

/// First page of guest RAM; 256 pages follow.
pub(crate) const RAM: u32 = 0x1000;
/// First frame of the pool.
pub(crate) const POOL: u32 = 0x8000;
/// Pages of guest RAM.
pub(crate) const RAM_PAGES: u32 = 256;
/// Number of the page with the guest's first-level table; leaf tables follow.
pub(crate) const FIRST_TABLE: u32 = 192;
/// The page with the guest's first-level table.
pub(crate) const TABLES: u32 = RAM + FIRST_TABLE;

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

/// Memory, stage 2, IOMMU and trace sink.
#[derive(Default)]
pub(crate) struct Machine {
    pages: BTreeMap<Hfn, Box<[u8; PAGE_BYTES]>>,
    /// Pages that are not at home or not fully accessible; `None` while broken.
    stage2: BTreeMap<Gfn, Option<(Hfn, CpuAccess)>>,
    roots: BTreeMap<(DartId, StreamId), HostGranule>,
    pub(crate) faults: Vec<(DartId, DeviceFault)>,
    pub(crate) events: Vec<Event>,
    /// Whether events go nowhere, as where the trace is compiled out.
    pub(crate) is_deaf: bool,
    pub(crate) invalidations: usize,
    /// Words that the engine loaded and stored.
    pub(crate) words: Cell<usize>,
    /// How often the engine compared all of two pages.
    pub(crate) comparisons: Cell<usize>,
    /// How often CPUs' translations of broken pages were flushed.
    pub(crate) flushes: usize,
    /// How many pages were broken in stage 2.
    pub(crate) breaks: usize,
    /// Called once by the next invalidation, while the hardware drains.
    pub(crate) during_drain: Option<fn(&mut Machine)>,
    /// Whether an entry can be limited to a run of slots.
    pub(crate) has_windows: bool,
    /// Whether invalidations time out.
    pub(crate) is_stuck: bool,
    /// Which word of a table the machine reports as changed, though a page has 512.
    pub(crate) lie: Option<usize>,
    /// Whether something that it was asked is not known to be done.
    pub(crate) is_unconfirmed: bool,
    /// Frames that the engine has released.
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
            self.faults.push((dart, DeviceFault { stream, iova, is_write: true }));
            return false;
        };
        self.bytes(page)[iova as usize % PAGE_BYTES] = value;
        true
    }

    pub(crate) fn cpu_page(&self, page: Gfn) -> Hfn {
        match self.stage2.get(&page) {
            Some(Some((at, _))) => *at,
            Some(None) => panic!("{page:?} was left broken"),
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
            Some(None) => panic!("{page:?} was left broken"),
            None => CpuAccess::ReadWrite,
        }
    }

    /// A store where the engine located the page.
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

#[expect(unsafe_code, reason = "a model of the machine")]
// SAFETY: it accesses only memory of the model, which is the test's own.
unsafe impl Memory for Machine {
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

    fn first_difference(&self, one: Hfn, other: Hfn, mut words: Range<usize>) -> Option<usize> {
        self.comparisons.set(self.comparisons.get() + usize::from(words == (0..PAGE_WORDS)));
        words.find(|word| self.load(one, *word) != self.load(other, *word))
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

#[expect(unsafe_code, reason = "a model of the machine")]
// SAFETY: no CPU translates through it but the model's.
unsafe impl Stage2 for Machine {
    fn prepare(&mut self, page: Gfn) -> Result<(), OutOfTables> {
        if self.unsplittable.contains(&page) {
            return Err(OutOfTables);
        }
        self.stage2.entry(page).or_insert(Some((page.home(), CpuAccess::ReadWrite)));
        Ok(())
    }

    fn break_page(&mut self, page: Gfn) {
        self.breaks += 1;
        let entry = self.stage2.insert(page, None);
        assert!(matches!(entry, Some(Some(_))), "{page:?} is broken unprepared or twice");
    }

    fn flush_tlb(&mut self) {
        self.flushes += 1;
    }

    fn remap_page(&mut self, page: Gfn, at: Hfn, access: CpuAccess) {
        let entry = self.stage2.insert(page, Some((at, access)));
        assert_eq!(entry, Some(None), "{page:?} is made without a break");
    }

    fn publish(&mut self) {}
}

#[expect(unsafe_code, reason = "a model of the machine")]
// SAFETY: no device translates through it but the model's.
unsafe impl Iommu for Machine {
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

    fn next_fault(&mut self, dart: DartId) -> Option<DeviceFault> {
        let first = self.faults.iter().position(|(of, _)| *of == dart)?;
        Some(self.faults.remove(first).1)
    }
}

impl TraceSink for Machine {
    fn event(&mut self, event: Event) {
        if !self.is_deaf {
            self.events.push(event);
        }
    }
}
