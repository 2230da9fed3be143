//! The simulated machine: memory, CPUs and a 16K IOMMU that do all that the engine's traits do not
//! forbid.
//!
//! CPUs keep stale translations until they are flushed; the IOMMU caches entries, valid and invalid
//! ones, until they are invalidated; device writes are posted and land late, where they were
//! accepted to go. Until a driver's barrier, a walk finds the old or the new value of each word of
//! a table that was stored, and loads find what was there before a device wrote. Other CPUs and
//! devices act in the middle of the engine's own work: a test queues their accesses, and they run
//! at random moments inside the traits' methods. A broken contract is remembered as a violation.

use crate::allocations::outside;
use crate::driver::Driver;
use crate::frames::Frames;
use crate::iommu::{DeviceResult, Hardware};
use crate::memory::{FormerWords, HostMemory};
use crate::random::{Random, mix};
use crate::stage2::{CpuResult, CpuTables};
use oche_engine::host::{
    CpuAccess, DeviceFault, DomainId, InvalidateTimedOut, Iommu, Memory, OutOfTables, Stage2,
    TraceSink,
};
use oche_types::addr::{Gfn, Hfn, HostGranule, PAGE_BYTES, PAGE_WORDS, SlotRun};
use oche_types::dart::entry::Permission;
use oche_types::dart::stream::{DartId, Members, StreamId};
use oche_types::event::Event;
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;

/// Where the simulated machine's memory lies.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Runs of guest RAM: first page and number of pages.
    pub ram: Vec<(Gfn, u32)>,
    /// The engine's own frames.
    pub pool: Range<HostGranule>,
}

/// In whose format the 16K tables' entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Board {
    /// The t8103 DART. Source: Linux `io-pgtable-dart.c`, `APPLE_DART1_*`.
    Dart,
    /// An SMMUv3 at stage 1. Source: Arm ARM DDI 0487, VMSAv8-64 descriptor formats, 16 KiB
    /// granule.
    Smmu,
}

/// How the machine behaves where the traits leave it a choice.
#[derive(Clone, Debug)]
pub struct Options {
    /// The entries' format.
    pub board: Board,
    /// Whether the IOMMU has windows; an SMMU never has.
    pub has_windows: bool,
    /// One `prepare` in this many finds no table memory; 0 for never.
    pub scarce_tables: u64,
    /// One invalidation in this many does not finish in time; 0 for never.
    pub timeouts: u64,
    /// Whether the home of a page that is away loses its bytes.
    pub poisons_homes: bool,
    /// What is wrong with the machine, to see the tests fail.
    pub injection: Option<FaultInjection>,
}

/// A way to be wrong. Each stands for a mistake in the engine, made where the engine meets the
/// machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultInjection {
    /// Invalidations do nothing.
    SkipInvalidate,
    /// Invalidations drop translations and do not wait for writes under way.
    SkipDrain,
    /// A page that moves into a frame is made one slot further on.
    OffByOneSlot,
    /// Leaf entries name the next frame.
    OffByOneHostGranule,
    /// Leaf entries allow everything.
    AllowAll,
    /// Leaf entries allow what they should forbid when one direction is asked for.
    SwapPermission,
    /// Leaf entries let devices reach all of a frame, whatever the window.
    WideWindow,
    /// Leaf entries let devices reach the first slot of the window alone.
    NarrowWindow,
    /// Copies are never merged.
    SkipMerge,
    /// A page's bytes are not copied when it goes home.
    SkipCopyHome,
    /// CPUs keep translations of broken pages.
    SkipCpuFlush,
    /// Empty slots are not filled with a pattern.
    SkipFill,
    /// A blocked stream goes on.
    SkipBlock,
    /// Stores that a watched page should trap go through unseen.
    SkipWriteProtect,
    /// Loads of pages that nobody should reach go through.
    WeakTrap,
    /// What a CPU stored into a page that was opened for it stays in one copy.
    SkipSettle,
    /// Pages are copied while their break is not complete.
    CopyBeforeBreak,
    /// Stores are not ordered for devices.
    SkipPublish,
    /// A driver does not complete table stores before it commands the hardware.
    SkipStoreBarrier,
    /// A driver does not order loads behind what it reads of the hardware.
    SkipLoadBarrier,
}

/// Up to 32 bytes that travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    bytes: [u8; 32],
    length: u8,
}

impl Data {
    /// The first 32 of `bytes`.
    pub fn new(source: &[u8]) -> Self {
        let length = source.len().min(32);
        let mut bytes = [0; 32];
        bytes[..length].copy_from_slice(&source[..length]);
        Self { bytes, length: length as u8 }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Something that a CPU or a device does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A guest's CPU loads `length` bytes.
    Load {
        /// Which CPU.
        cpu: usize,
        /// The guest page.
        page: Gfn,
        /// First byte in the page.
        offset: usize,
        /// Bytes, at most 32 and inside the page.
        length: usize,
    },
    /// A guest's CPU stores.
    Store {
        /// Which CPU.
        cpu: usize,
        /// The guest page.
        page: Gfn,
        /// First byte in the page.
        offset: usize,
        /// What.
        data: Data,
    },
    /// A device reads `length` bytes.
    Read {
        /// Its DART.
        dart: DartId,
        /// Its stream.
        stream: StreamId,
        /// The IOVA of the first byte.
        iova: u64,
        /// Bytes, at most 32 and inside a page.
        length: usize,
    },
    /// A device writes.
    Write {
        /// Its DART.
        dart: DartId,
        /// Its stream.
        stream: StreamId,
        /// The IOVA of the first byte.
        iova: u64,
        /// What; it stays inside a page.
        data: Data,
    },
}

/// What came of an access that ran in the middle of the engine's work.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// Of a CPU's.
    Cpu(CpuResult),
    /// Of a device's.
    Device(DeviceResult),
}

/// The machine. `CACHES_INVALID` says whether its IOMMU caches that an entry is not valid.
pub struct SimulatedMachine<const CACHES_INVALID: bool> {
    /// What happens by chance.
    pub random: Random,
    /// What the engine reported, oldest first; whoever has read it clears it.
    pub events: Vec<Event>,
    /// Accesses that will run at random moments inside the engine's calls.
    pub overlap: VecDeque<Access>,
    /// Accesses that ran there, with their outcomes, in order.
    pub overlapped: Vec<(Access, Outcome)>,
    pub(crate) options: Options,
    pub(crate) memory: HostMemory,
    pub(crate) cpus: CpuTables,
    pub(crate) hardware: Hardware,
    pub(crate) driver: Driver,
    /// Streams that were blocked, and are not known to be.
    unblocked: Vec<(DartId, StreamId)>,
    pub(crate) frames: Frames,
    /// Bytes of memory that the engine loaded and stored.
    pub(crate) touched_bytes: Cell<u64>,
    violation: RefCell<Option<String>>,
    countdown: u64,
}

impl<const CACHES_INVALID: bool> SimulatedMachine<CACHES_INVALID> {
    /// A machine with `cpus` CPUs and `darts` IOMMUs, every stream blocked.
    /// `words` is memory of a former machine with the same RAM, to be used again, or empty.
    pub fn new(
        layout: &Layout,
        options: Options,
        cpus: usize,
        darts: usize,
        seed: u64,
        words: FormerWords,
    ) -> Self {
        let memory = HostMemory::new(layout, words);
        Self {
            random: Random::new(seed),
            events: Vec::new(),
            overlap: VecDeque::new(),
            overlapped: Vec::new(),
            cpus: CpuTables::new(layout, memory.pages(), cpus),
            hardware: Hardware::new(darts),
            driver: Driver::new(options.board, darts),
            unblocked: Vec::new(),
            frames: Frames::new(layout.pool.clone()),
            options,
            memory,
            touched_bytes: Cell::new(0),
            violation: RefCell::new(None),
            countdown: 50,
        }
    }

    /// Gives `page` its [`initial_words`].
    pub fn initialize(&mut self, page: Gfn) {
        if let Some(index) = self.memory.index(page.home()) {
            self.memory.initialize(index, initial_words(page));
        }
    }

    /// The machine's memory, for another with the same RAM: this one has ended.
    pub fn take_words(&mut self) -> FormerWords {
        self.memory.take_words()
    }

    /// The first contract that was broken, if one was.
    pub fn take_violation(&self) -> Option<String> {
        self.violation.borrow_mut().take().or_else(|| self.cpus.checker().take_violation())
    }

    pub(crate) fn violate(&self, text: String) {
        self.violation.borrow_mut().get_or_insert(text);
    }

    /// Whether the machine is to be wrong in this way.
    pub fn injects(&self, injection: FaultInjection) -> bool {
        self.options.injection == Some(injection)
    }

    /// Runs `access` now. `None`: it would wait, because its page is in motion.
    pub fn perform(&mut self, access: &Access) -> Option<Outcome> {
        match *access {
            Access::Load { cpu, page, offset, length } => {
                match self.cpu_load(cpu, page, offset, length) {
                    CpuResult::InMotion => None,
                    result => Some(Outcome::Cpu(result)),
                }
            }
            Access::Store { cpu, page, offset, data } => {
                match self.cpu_store(cpu, page, offset, &data) {
                    CpuResult::InMotion => None,
                    result => Some(Outcome::Cpu(result)),
                }
            }
            Access::Read { dart, stream, iova, length } => {
                Some(Outcome::Device(self.device_read(dart, stream, iova, length)))
            }
            Access::Write { dart, stream, iova, data } => {
                Some(Outcome::Device(self.device_write(dart, stream, iova, &data)))
            }
        }
    }

    /// Lets the rest of the machine act, now and then.
    fn tick(&mut self) {
        if self.is_quiet() {
            return;
        }
        self.countdown = self.countdown.saturating_sub(1);
        if self.countdown == 0 {
            self.countdown = 1 + self.random.below(700);
            self.act();
        }
    }

    /// Lets the rest of the machine act with some likelihood, at a step that matters.
    pub(crate) fn step(&mut self) {
        while !self.is_quiet() && self.random.chance(1, 3) {
            self.act();
        }
    }

    /// The words of `page`, which must be one that the engine may look at.
    fn page_of_engine(&self, page: Hfn) -> Option<&[u64; PAGE_WORDS]> {
        Some(self.memory.page(self.place_of_engine(page)?))
    }

    /// The place of `page`, which must be one that the engine may look at.
    fn place_of_engine(&self, page: Hfn) -> Option<usize> {
        let index = self.memory.index(page);
        if index.is_none() {
            self.violate(format!("the engine looks at {page:?}, which is no memory of its"));
        }
        index
    }

    /// How many of the `most` words that are stored next nobody else can act between.
    fn undisturbed(&self, most: usize) -> usize {
        if self.is_quiet() { most } else { most.min(self.countdown.saturating_sub(1) as usize) }
    }

    /// Counts `words` stores, at most [`Self::undisturbed`], as [`Self::tick`] does one by one.
    fn pass(&mut self, words: usize) {
        if !self.is_quiet() {
            self.countdown -= words as u64;
        }
    }

    fn is_quiet(&self) -> bool {
        self.overlap.is_empty() && self.hardware.pending.is_empty()
    }

    fn act(&mut self) {
        if self.random.chance(1, 4) || self.overlap.is_empty() {
            self.deliver_any();
            return;
        }
        let Some(access) = self.overlap.pop_front() else { return };
        match self.perform(&access) {
            // An access that traps waits for the engine, which is at work: it is tried again
            // afterwards.
            None | Some(Outcome::Cpu(CpuResult::ReadOnly | CpuResult::NoAccess)) => {
                self.overlap.push_back(access);
            }
            Some(outcome) => self.overlapped.push((access, outcome)),
        }
    }
}

impl<const CACHES_INVALID: bool> Memory for SimulatedMachine<CACHES_INVALID> {
    fn load(&self, page: Hfn, word: usize) -> u64 {
        let _side = outside();
        self.touch(8);
        match self.memory.index(page) {
            Some(index) if word < PAGE_WORDS => self.memory.word(index, word),
            _ => {
                self.violate(format!(
                    "the engine loads word {word} of {page:?}, which is no memory of its"
                ));
                0
            }
        }
    }

    fn store(&mut self, page: Hfn, word: usize, value: u64) {
        let _side = outside();
        self.touch(8);
        self.tick();
        match self.memory.index(page) {
            Some(index) if word < PAGE_WORDS => {
                self.note_store(page);
                if self.frames.is_table(page) {
                    self.note_entry(page, word, self.memory.word(index, word), value);
                }
                self.memory.set_word(index, word, value);
            }
            _ => self.violate(format!(
                "the engine stores word {word} of {page:?}, which is no memory of its"
            )),
        }
    }

    fn store_aligned(&mut self, page: Hfn, offset: usize, width_log2: u8, value: u64) {
        let _side = outside();
        self.touch(8);
        self.tick();
        let bytes = 1 << width_log2;
        match self.memory.index(page) {
            Some(index)
                if width_log2 <= 3 && offset < PAGE_BYTES && offset.is_multiple_of(bytes) =>
            {
                self.note_store(page);
                self.memory.set_bytes(index, offset, &value.to_le_bytes()[..bytes]);
            }
            _ => self.violate(format!("the engine stores {bytes} bytes at {offset} of {page:?}")),
        }
    }

    fn first_difference(&self, one: Hfn, other: Hfn, words: Range<usize>) -> Option<usize> {
        let _side = outside();
        if self.injects(FaultInjection::SkipMerge) {
            return None;
        }
        self.cpus.checker().note_comparison(one);
        self.cpus.checker().note_comparison(other);
        let (one, other) = (self.place_of_engine(one)?, self.place_of_engine(other)?);
        if self.memory.are_known_equal(one, other) {
            self.touch(16 * words.len());
            return None;
        }
        let (one_words, other_words) = (self.memory.page(one), self.memory.page(other));
        let first = first_unequal(one_words.get(words.clone())?, other_words.get(words.clone())?);
        if first.is_none() && words == (0..PAGE_WORDS) {
            self.memory.note_equal(one, other);
        }
        self.touch(16 * first.map_or(words.len(), |word| word + 1));
        first.map(|word| words.start + word)
    }

    fn first_change(&self, page: Hfn, known: &[u64; PAGE_WORDS], word: usize) -> Option<usize> {
        let _side = outside();
        let words = known.get(word..)?;
        let first = first_unequal(self.page_of_engine(page)?.get(word..)?, words);
        self.touch(8 * first.map_or(words.len(), |index| index + 1));
        first.map(|index| word + index)
    }

    fn first_other(&self, page: Hfn, value: u64, word: usize) -> Option<usize> {
        let _side = outside();
        let found = self.memory.first_other(self.place_of_engine(page)?, value, word);
        self.touch(8 * (found.unwrap_or(PAGE_WORDS) - word));
        found
    }

    fn copy_page(&mut self, from: Hfn, to: Hfn) {
        let _side = outside();
        self.touch(2 * PAGE_BYTES);
        if self.injects(FaultInjection::SkipCopyHome) && self.memory.is_ram(to) {
            return;
        }
        let to_page = to;
        if let (true, Some(from), Some(to)) =
            (self.is_quiet(), self.memory.index(from), self.memory.index(to))
        {
            self.memory.copy(from, to);
            self.note_store(to_page);
            return;
        }
        let places = (self.memory.index(from), self.memory.index(to));
        let mut word = 0;
        while word < PAGE_WORDS {
            let many =
                if self.frames.is_table(to) { 0 } else { self.undisturbed(PAGE_WORDS - word) };
            if let ((Some(from), Some(to)), true) = (places, many != 0) {
                self.pass(many);
                self.note_store(to_page);
                self.memory.copy_words(from, to, word..word + many);
                word += many;
            } else {
                let value = self.load(from, word);
                self.store(to, word, value);
                word += 1;
            }
        }
    }

    fn fill_page(&mut self, page: Hfn, value: u64) {
        let _side = outside();
        self.touch(PAGE_BYTES);
        if self.injects(FaultInjection::SkipFill) {
            return;
        }
        if let (true, false, Some(index)) =
            (self.is_quiet(), self.frames.is_table(page), self.memory.index(page))
        {
            self.memory.fill(index, value);
            self.note_store(page);
            return;
        }
        let place = self.memory.index(page);
        let mut word = 0;
        while word < PAGE_WORDS {
            let many =
                if self.frames.is_table(page) { 0 } else { self.undisturbed(PAGE_WORDS - word) };
            if let (Some(place), true) = (place, many != 0) {
                self.pass(many);
                self.note_store(page);
                self.memory.page_mut(place)[word..word + many].fill(value);
                word += many;
            } else {
                self.store(page, word, value);
                word += 1;
            }
        }
    }

    fn release(&mut self, frame: HostGranule) {
        let _side = outside();
        let board = self.options.board;
        if let Err(text) = self.frames.release(&self.memory, board, &self.cpus, frame) {
            self.violate(text);
        }
    }
}

impl<const CACHES_INVALID: bool> SimulatedMachine<CACHES_INVALID> {
    fn touch(&self, bytes: usize) {
        self.touched_bytes.set(self.touched_bytes.get() + bytes as u64);
    }

    fn note_store(&self, page: Hfn) {
        self.cpus.checker().note_store(page);
    }

    /// Looks for streams that have been blocked and have let go of what they had by now.
    fn confirm(&mut self) {
        for (dart, stream) in std::mem::take(&mut self.unblocked) {
            if self.has_let_go(dart, stream) {
                self.frames.detach(dart, stream);
            } else {
                self.unblocked.push((dart, stream));
            }
        }
    }

    fn note_entry(&mut self, page: Hfn, word: usize, before: u64, now: u64) {
        if before != now {
            self.hardware.note_store((page, word), before, self.cpus.checker().barriers_for_all());
        }
        let board = self.options.board;
        let done = self.frames.store(board, &self.memory, &self.cpus, (page, word), (before, now));
        if let Err(text) = done {
            self.violate(text);
        }
    }
}

/// What the words of `page` are before anybody stores there.
pub fn initial_words(page: Gfn) -> impl Iterator<Item = u64> {
    let first = mix(page.0.into());
    // Even, so that no word of data is a valid table entry by chance; and no word is like another.
    (0..PAGE_WORDS as u64)
        .map(move |word| first.wrapping_add(0x9e37_79b9_7f4a_7c16_u64.wrapping_mul(word)) & !1)
}

/// The first place in which two equally long pieces of pages differ.
fn first_unequal(one: &[u64], other: &[u64]) -> Option<usize> {
    // Nearly always they are equal, and that is found out much faster at once.
    if one == other { None } else { one.iter().zip(other).position(|(one, other)| one != other) }
}

impl<const CACHES_INVALID: bool> Stage2 for SimulatedMachine<CACHES_INVALID> {
    fn prepare(&mut self, page: Gfn) -> Result<(), OutOfTables> {
        let _side = outside();
        self.step();
        let scarce = self.options.scarce_tables;
        if scarce != 0 && !self.is_prepared(page) && self.random.chance(1, scarce) {
            return Err(OutOfTables);
        }
        self.stage2_prepare(page)
    }

    fn break_page(&mut self, page: Gfn) {
        let _side = outside();
        self.step();
        self.stage2_break(page);
        self.step();
    }

    fn flush_broken(&mut self) {
        let _side = outside();
        self.step();
        self.stage2_flush();
        self.step();
    }

    fn make_page(&mut self, page: Gfn, at: Hfn, access: CpuAccess) {
        let _side = outside();
        self.step();
        let at = if self.injects(FaultInjection::OffByOneSlot) && at != page.home() {
            at.frame().page(at.0 as usize + 1)
        } else {
            at
        };
        let access = match (self.options.injection, access) {
            (Some(FaultInjection::SkipWriteProtect), _) => CpuAccess::ReadWrite,
            (Some(FaultInjection::WeakTrap), CpuAccess::None) => CpuAccess::ReadOnly,
            _ => access,
        };
        self.stage2_make(page, at, access);
        self.step();
    }

    fn publish(&mut self) {
        let _side = outside();
        self.step();
        self.stage2_publish();
        self.step();
    }
}

impl<const CACHES_INVALID: bool> Iommu for SimulatedMachine<CACHES_INVALID> {
    const CACHES_INVALID_ENTRIES: bool = CACHES_INVALID;
    const CAN_FORBID_READS: bool = true;

    fn has_windows(&self) -> bool {
        let _side = outside();
        self.options.has_windows && self.options.board == Board::Dart
    }

    fn leaf_entry(&self, frame: HostGranule, permission: Permission, slots: SlotRun) -> u64 {
        let _side = outside();
        let slots = match self.options.injection {
            Some(FaultInjection::WideWindow) => SlotRun::ALL,
            Some(FaultInjection::NarrowWindow) => {
                SlotRun::new(slots.first(), slots.first()).unwrap_or(slots)
            }
            _ => slots,
        };
        let frame = if self.injects(FaultInjection::OffByOneHostGranule) {
            HostGranule(frame.0 + 1)
        } else {
            frame
        };
        let permission = match self.options.injection {
            Some(FaultInjection::AllowAll) => Permission::READ_WRITE,
            Some(FaultInjection::SwapPermission) if permission.read != permission.write => {
                Permission { read: permission.write, write: permission.read }
            }
            _ => permission,
        };
        self.options.board.leaf_entry(frame, permission, slots)
    }

    fn table_entry(&self, table: HostGranule) -> u64 {
        let _side = outside();
        self.options.board.table_entry(table)
    }

    fn attach(
        &mut self,
        dart: DartId,
        stream: StreamId,
        domain: DomainId,
        root: HostGranule,
    ) -> Result<(), InvalidateTimedOut> {
        let _side = outside();
        self.step();
        let attached = self.driver.attach(dart, stream, domain, root);
        self.carry_out();
        self.unblocked.retain(|unblocked| *unblocked != (dart, stream));
        self.confirm();
        self.set_domain(dart, stream, Some(domain));
        self.frames.attach(self.options.board, &self.memory, (dart, stream), domain, root);
        self.step();
        attached
    }

    fn block(&mut self, dart: DartId, stream: StreamId) {
        let _side = outside();
        self.step();
        if !self.injects(FaultInjection::SkipBlock) {
            self.ask_to_let_go(dart, stream);
            self.driver.block(dart, stream);
            self.carry_out();
            self.set_domain(dart, stream, None);
            self.unblocked.push((dart, stream));
            self.confirm();
        }
        self.step();
    }

    fn invalidate(
        &mut self,
        domain: DomainId,
        members: &Members,
    ) -> Result<(), InvalidateTimedOut> {
        let _side = outside();
        self.step();
        let timeouts = self.options.timeouts;
        let hangs = timeouts != 0 && self.random.chance(1, timeouts);
        let hanging = if hangs { 1 + self.random.below(4) as u32 } else { 0 };
        self.check_members(domain, members);
        let streams =
            || members.iter().flat_map(|(dart, all)| all.iter().map(move |stream| (dart, stream)));
        streams().for_each(|(dart, stream)| self.ask_to_let_go(dart, stream));
        let done = self.driver.invalidate(domain, members, hanging);
        self.carry_out();
        self.confirm();
        if done.is_ok() && streams().all(|(dart, stream)| self.has_let_go(dart, stream)) {
            self.frames.invalidate(domain);
        }
        self.step();
        done
    }

    fn is_confirmed(&mut self) -> bool {
        let _side = outside();
        let is_confirmed = self.driver.is_confirmed();
        // The driver may have told a DART once more what it had not confirmed.
        self.carry_out();
        self.confirm();
        is_confirmed
    }

    fn next_fault(&mut self) -> Option<DeviceFault> {
        let _side = outside();
        self.hardware.faults.pop_front()
    }
}

impl<const CACHES_INVALID: bool> TraceSink for SimulatedMachine<CACHES_INVALID> {
    fn event(&mut self, event: Event) {
        let _side = outside();
        if let Event::Moved { page, to } = event {
            self.cpus.checker().note_move(page, to);
        }
        self.events.push(event);
    }
}
