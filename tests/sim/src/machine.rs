//! The simulated machine: memory, CPUs and a 16 KiB IOMMU that do whatever the engine's traits do
//! not exclude.
//!
//! CPUs keep stale translations until they are flushed; the IOMMU caches entries, valid and invalid
//! ones, until they are invalidated; device writes are posted and land late, where they were
//! accepted to go. Until a driver's barrier, a walk finds the old or the new value of each word of
//! a table that was stored, and loads find what was there before a device wrote. Other CPUs and
//! devices make accesses during the engine's work: a test queues the accesses, and they run at
//! random moments inside the traits' methods. A broken contract is recorded as a violation.

mod host;
mod iommu;
mod memory;
mod stage2;

use crate::access::{Access, CpuResult, Outcome};
use crate::cpu_tables::CpuTables;
use crate::driver::Driver;
use crate::frames::Frames;
use crate::hardware::Hardware;
use crate::memory::{FormerWords, HostMemory};
use crate::random::{Random, mix};
use crate::setup::{FaultInjection, Layout, Options};
use oche_types::addr::{Gfn, Hfn, PAGE_WORDS};
use oche_types::dart::stream::{DartId, StreamId};
use oche_types::event::Event;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

/// The machine. `CACHES_INVALID` says whether its IOMMU caches that an entry is not valid.
pub struct SimulatedMachine<const CACHES_INVALID: bool> {
    /// The source of random choices.
    pub random: Random,
    /// What the engine reported, oldest first; its reader clears it.
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

    /// Whether this fault is injected.
    pub fn injects(&self, injection: FaultInjection) -> bool {
        self.options.injection == Some(injection)
    }

    /// Runs `access` now. `None`: it would wait, because its page is broken.
    pub fn perform(&mut self, access: &Access) -> Option<Outcome> {
        match *access {
            Access::Load { cpu, page, offset, length } => {
                match self.cpu_load(cpu, page, offset, length) {
                    CpuResult::Broken => None,
                    result => Some(Outcome::Cpu(result)),
                }
            }
            Access::Store { cpu, page, offset, data } => {
                match self.cpu_store(cpu, page, offset, &data) {
                    CpuResult::Broken => None,
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

    /// Lets the rest of the machine run, at random times.
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

    /// Lets the rest of the machine run with some probability, at an important step.
    pub(crate) fn step(&mut self) {
        while !self.is_quiet() && self.random.chance(1, 3) {
            self.act();
        }
    }

    /// The words of `page`, which the engine must be allowed to access.
    fn page_of_engine(&self, page: Hfn) -> Option<&[u64; PAGE_WORDS]> {
        Some(self.memory.page(self.place_of_engine(page)?))
    }

    /// The place of `page`, which the engine must be allowed to access.
    fn place_of_engine(&self, page: Hfn) -> Option<usize> {
        let index = self.memory.index(page);
        if index.is_none() {
            self.violate(format!("the engine looks at {page:?}, which is no memory of its"));
        }
        index
    }

    /// How many of the `most` words that are stored next are stored without an access in between.
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

impl<const CACHES_INVALID: bool> SimulatedMachine<CACHES_INVALID> {
    fn touch(&self, bytes: usize) {
        self.touched_bytes.set(self.touched_bytes.get() + bytes as u64);
    }

    fn note_store(&self, page: Hfn) {
        self.cpus.checker().note_store(page);
    }

    /// Updates the streams that were blocked and do not use their old domain any more.
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

/// The initial words of `page`.
pub fn initial_words(page: Gfn) -> impl Iterator<Item = u64> {
    let first = mix(page.0.into());
    // Even, so that no word of data is a valid table entry by chance; and no word is like another.
    (0..PAGE_WORDS as u64)
        .map(move |word| first.wrapping_add(0x9e37_79b9_7f4a_7c16_u64.wrapping_mul(word)) & !1)
}
