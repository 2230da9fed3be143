//! A simulated DART that does what a real one may do wrong, and panics at what it would not
//! forgive.
//!
//! Registers and their fields are those of the emulated DART, so that the driver's own definitions
//! are checked against others.

use core::cell::{Cell, RefCell};
use oche_types::dart::registers::{
    CONFIG, ERROR, REGION_BYTES, STREAM_COMMAND, STREAM_SELECT, StreamCommand, TCR, TTBR, Ttbr,
};
use oche_types::dart::stream::{DartId, StreamId};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::vec::Vec;

use crate::darts::hardware::{BusError, Hardware};
use crate::power::Power;

/// The bit of `CONFIG` that freezes TCRs and TTBRs until reset. Source: Linux `apple-dart.c`,
/// `DART_CONFIG_LOCK`.
pub(super) const CONFIG_LOCK: u32 = 1 << 15;
/// Words of a power domain's register: on; its clock gated by itself; its clock held off; no power.
pub(super) const ON: u32 = 0x1000_00ff;
pub(super) const GATED: u32 = 0x1000_034f;
pub(super) const HELD: u32 = 0x0000_0244;
pub(super) const OFF: u32 = 0x0000_0300;

/// What happens to a DART by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Its domain's register becomes another.
    Power(u32),
    /// Its power goes and comes back.
    Cycle,
    /// The access under way is answered by a bus error.
    BusError,
}

/// One DART that panics at whatever a real one would not forgive.
#[derive(Default)]
pub(super) struct Model {
    pub(super) file: BTreeMap<u64, u32>,
    /// The register of its power domain.
    pub(super) domain: u32,
    /// The driver has checked the domain since that changed, so it knows the domain's state.
    pub(super) was_checked: Cell<bool>,
    /// The domain is on when it has been checked that often.
    pub(super) checks_until_on: Option<u32>,
    /// What does not answer reads as 0 and takes no store, without a bus error.
    pub(super) is_silent: bool,
    /// What happens at an access, and how many come before that one.
    pub(super) plan: Cell<Option<(u32, Change)>>,
    /// The same at every further access.
    pub(super) is_plan_lasting: bool,
    /// Bits that every TCR reads back beside what was written.
    pub(super) tcr_extra: u32,
    /// Reads of the command register for which it stays busy after a command; `None`: for ever.
    pub(super) busy_reads: Option<u32>,
    pub(super) busy_left: Cell<u32>,
    /// Streams whose cached entries were dropped, a bit each, in the order of the commands.
    pub(super) flushed: Vec<u16>,
    /// Streams that may still use older roots than their registers name.
    pub(super) stale: u16,
    /// What its device's stream has cached: TTBR and table entry.
    pub(super) cached: Option<(u32, u64)>,
    /// Register accesses that it answered.
    pub(super) accesses: u32,
}

/// The stream whose device a test has read.
pub(super) const DEVICE: usize = 1;

fn device() -> StreamId {
    StreamId::new(DEVICE).expect("a stream")
}

impl Model {
    pub(super) fn set_domain(&mut self, value: u32) {
        self.domain = value;
        self.was_checked.set(false);
        if Power::from_register(value) == Power::Off {
            self.file.clear();
            self.busy_left.set(0);
            (self.stale, self.cached) = (0, None);
        }
    }

    fn change(&mut self, change: Change) -> Result<(), BusError> {
        match change {
            Change::Power(value) => self.set_domain(value),
            Change::Cycle => {
                self.set_domain(OFF);
                self.set_domain(ON);
            }
            Change::BusError => return Err(BusError),
        }
        Ok(())
    }

    /// A register is about to be accessed. `Ok(false)`: nothing happens.
    fn access(&mut self) -> Result<bool, BusError> {
        match self.plan.get() {
            Some((0, change)) => {
                if !self.is_plan_lasting {
                    self.plan.set(None);
                }
                self.change(change)?;
            }
            Some((left, change)) => self.plan.set(Some((left - 1, change))),
            None => {}
        }
        if Power::from_register(self.domain) != Power::On {
            assert!(!self.was_checked.get(), "a DART that does not answer was accessed");
            return if self.is_silent { Ok(false) } else { Err(BusError) };
        }
        if self.domain == GATED {
            self.domain = ON;
        }
        self.accesses += 1;
        Ok(true)
    }

    /// The TTBR and the table entry that translate the device's access; `None`: the access is
    /// refused, or cannot be made.
    fn device_reads(&mut self, table: u64) -> Option<(u32, u64)> {
        let tcr = self.file.get(&tcr_of(device())).copied().unwrap_or(0);
        assert_eq!(tcr & 0x100, 0, "a stream bypasses");
        let ttbr = self.file.get(&ttbr_of(device(), 0)).copied().unwrap_or(0);
        if Power::from_register(self.domain) != Power::On || tcr & 0x80 == 0 {
            return None;
        }
        if self.cached.is_none() && Ttbr::from_bits(ttbr).valid() {
            self.cached = Some((ttbr, table));
        }
        self.cached
    }
}

/// Memory as the CPU, a table walk and a CPU's load may find it: a word of a table, and a word of a
/// buffer.
#[derive(Default)]
struct Shared {
    /// The table's word as the CPU stored it, and the oldest that a walk may find.
    table: Cell<u64>,
    visible_table: Cell<u64>,
    /// What walks have found, each time that one may begin: a register names the table, or a
    /// command ends.
    walks: RefCell<Vec<u64>>,
    /// Device writes that have landed, and how many of them a load is sure to find.
    landed: Cell<u64>,
    loadable: Cell<u64>,
}

#[derive(Clone, Default)]
pub(super) struct Bench {
    models: Rc<RefCell<Vec<Model>>>,
    pub(super) ticks: Rc<Cell<u64>>,
    shared: Rc<Shared>,
}

#[expect(unsafe_code, reason = "a model of the machine")]
// SAFETY: it has no device but the model's.
unsafe impl Hardware for Bench {
    fn read(&self, dart: DartId, offset: u64) -> Result<u32, BusError> {
        let mut models = self.models.borrow_mut();
        let model = &mut models[dart.index()];
        assert!(offset.is_multiple_of(4) && offset < REGION_BYTES);
        if !model.access()? {
            return Ok(0);
        }
        let value = model.file.get(&offset).copied().unwrap_or(0);
        match offset {
            STREAM_COMMAND => {
                let left = model.busy_left.get();
                model.busy_left.set(left.saturating_sub(u32::from(model.busy_reads.is_some())));
                if left == 1 && model.busy_reads.is_some() {
                    let streams = model.flushed.last().copied().unwrap_or(0);
                    model.stale &= !streams;
                    if streams >> DEVICE & 1 != 0 {
                        model.cached = None;
                    }
                    self.shared.landed.set(self.shared.landed.get() + 1);
                }
                Ok(StreamCommand::new().with_busy(left != 0).into_bits())
            }
            TCR..TTBR => Ok(value | model.tcr_extra),
            _ => Ok(value),
        }
    }

    fn write(&mut self, dart: DartId, offset: u64, value: u32) -> Result<(), BusError> {
        let mut models = self.models.borrow_mut();
        let model = &mut models[dart.index()];
        if !model.access()? {
            return Ok(());
        }
        let is_locked = model.file.get(&CONFIG).is_some_and(|config| config & CONFIG_LOCK != 0);
        match offset {
            STREAM_COMMAND => {
                assert_eq!(model.busy_left.get(), 0, "a command while it is busy");
                model.busy_left.set(model.busy_reads.unwrap_or(1));
                let streams = model.file.get(&STREAM_SELECT).copied().unwrap_or(0) as u16;
                model.flushed.push(streams);
                self.shared.walks.borrow_mut().push(self.shared.visible_table.get());
            }
            ERROR => {
                let error = model.file.entry(ERROR).or_default();
                *error &= !value;
            }
            TCR..0x300 => {
                assert!(!is_locked, "a locked DART's tables were written");
                let stream = if offset < TTBR { (offset - TCR) / 4 } else { (offset - TTBR) / 16 };
                model.stale |= 1 << stream;
                model.file.insert(offset, value);
                if offset >= TTBR && Ttbr::from_bits(value).valid() {
                    self.shared.walks.borrow_mut().push(self.shared.visible_table.get());
                }
            }
            _ => {
                model.file.insert(offset, value);
            }
        }
        Ok(())
    }

    fn complete_stores(&mut self) {
        self.shared.visible_table.set(self.shared.table.get());
    }

    fn order_loads(&mut self) {
        self.shared.loadable.set(self.shared.landed.get());
    }

    fn power(&self, dart: DartId) -> Power {
        let mut models = self.models.borrow_mut();
        let model = &mut models[dart.index()];
        if let Some(left) = model.checks_until_on.take() {
            model.checks_until_on = left.checked_sub(1);
            if left == 0 {
                model.set_domain(ON);
            }
        }
        model.was_checked.set(true);
        Power::from_register(model.domain)
    }

    fn ticks(&self) -> u64 {
        self.ticks.set(self.ticks.get() + 1000);
        self.ticks.get()
    }

    fn ticks_per_millisecond(&self) -> u64 {
        24_000
    }
}

impl Bench {
    pub(super) fn of(count: usize) -> Self {
        let model = || Model { domain: ON, busy_reads: Some(3), ..Model::default() };
        let models = Rc::new(RefCell::new((0..count).map(|_| model()).collect()));
        Self { models, ticks: Rc::default(), shared: Rc::default() }
    }

    /// The TTBR and the table entry that translate an access of the device behind `dart`.
    pub(super) fn device_reads(&self, dart: usize) -> Option<(u32, u64)> {
        self.with(dart, |model| model.device_reads(self.shared.visible_table.get()))
    }

    /// The engine stores a word of a table, and forgets what was walked before.
    pub(super) fn store_entry(&self, value: u64) {
        self.shared.table.set(value);
        self.shared.walks.borrow_mut().clear();
    }

    /// Whether every walk since the last store has found what was stored, and there was one.
    pub(super) fn walks_find(&self, value: u64) -> bool {
        let walks = self.shared.walks.borrow();
        !walks.is_empty() && walks.iter().all(|found| *found == value)
    }

    /// Whether a load finds everything that devices wrote.
    pub(super) fn loads_are_ordered(&self) -> bool {
        self.shared.landed.get() != 0 && self.shared.loadable.get() == self.shared.landed.get()
    }

    pub(super) fn with<T>(&self, dart: usize, look: impl FnOnce(&mut Model) -> T) -> T {
        look(&mut self.models.borrow_mut()[dart])
    }

    pub(super) fn file(&self, dart: usize, offset: u64) -> u32 {
        self.with(dart, |model| model.file.get(&offset).copied().unwrap_or(0))
    }

    /// Flushes of all streams at once: a DART that is taken over or programmed again has one.
    pub(super) fn whole_flushes(&self, dart: usize) -> usize {
        self.with(dart, |model| model.flushed.iter().filter(|streams| **streams == 0xffff).count())
    }
}

/// The offset of a stream's TCR.
pub(super) fn tcr_of(stream: StreamId) -> u64 {
    TCR + 4 * stream.index() as u64
}

/// The offset of one of a stream's TTBRs.
pub(super) fn ttbr_of(stream: StreamId, index: usize) -> u64 {
    TTBR + 16 * stream.index() as u64 + 4 * index as u64
}
