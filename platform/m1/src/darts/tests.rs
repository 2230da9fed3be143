//! The driver against a strict DART: what a real one may do wrong, this one does.

use super::*;
use crate::ownership::{DartAccess, Owner, Ownership, Route};
use alloc::string::ToString;
use core::cell::{Cell, RefCell};
use oche_types::dart::registers::REGION_BYTES;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::vec;

/// Words of a power domain's register: on; its clock gated by itself; its clock held off; no power.
const ON: u32 = 0x1000_00ff;
const GATED: u32 = 0x1000_034f;
const HELD: u32 = 0x0000_0244;
const OFF: u32 = 0x0000_0300;

/// What happens to a DART by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// Its domain's register becomes another.
    Power(u32),
    /// Its power goes and comes back.
    Cycle,
    /// The access under way is answered by a bus error.
    BusError,
}

/// One DART that panics at whatever a real one would not forgive.
#[derive(Default)]
struct Model {
    file: BTreeMap<u64, u32>,
    /// The register of its power domain.
    domain: u32,
    /// The driver has looked at the domain since that changed: what it does from there on it does
    /// knowingly.
    was_looked_at: Cell<bool>,
    /// The domain is on when it has been looked at that often.
    looks_until_on: Option<u32>,
    /// What does not answer reads as 0 and takes no store, without a bus error.
    is_silent: bool,
    /// What happens at an access, and how many come before that one.
    plan: Cell<Option<(u32, Change)>>,
    /// The same at every further access.
    is_plan_lasting: bool,
    /// Bits that every TCR reads back beside what was written.
    tcr_extra: u32,
    /// Reads of the command register for which it stays busy after a command; `None`: for ever.
    busy_reads: Option<u32>,
    busy_left: Cell<u32>,
    /// Streams whose cached entries were dropped, a bit each, in the order of the commands.
    flushed: Vec<u16>,
    /// Streams that may still use older roots than their registers name.
    stale: u16,
    /// What its device's stream has cached: TTBR and table entry.
    cached: Option<(u32, u64)>,
    /// Register accesses that it answered.
    accesses: u32,
}

/// The stream whose device a test has read.
const DEVICE: usize = 1;

impl Model {
    fn set_domain(&mut self, value: u32) {
        self.domain = value;
        self.was_looked_at.set(false);
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
            assert!(!self.was_looked_at.get(), "a DART that does not answer was accessed");
            return if self.is_silent { Ok(false) } else { Err(BusError) };
        }
        if self.domain == GATED {
            self.domain = ON;
        }
        self.accesses += 1;
        Ok(true)
    }

    /// What the device's access goes by: TTBR and table entry; `None`: it is refused, or cannot be
    /// made.
    fn device_reads(&mut self, table: u64) -> Option<(u32, u64)> {
        let tcr = self.file.get(&tcr_of(stream(DEVICE))).copied().unwrap_or(0);
        assert_eq!(tcr & 0x100, 0, "a stream bypasses");
        let ttbr = self.file.get(&ttbr_of(stream(DEVICE), 0)).copied().unwrap_or(0);
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
struct Bench(Rc<RefCell<Vec<Model>>>, Rc<Cell<u64>>, Rc<Shared>);

impl Hardware for Bench {
    fn read(&self, dart: DartId, offset: u64) -> Result<u32, BusError> {
        let mut models = self.0.borrow_mut();
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
                    self.2.landed.set(self.2.landed.get() + 1);
                }
                Ok(StreamCommand::new().with_busy(left != 0).into_bits())
            }
            TCR..TTBR => Ok(value | model.tcr_extra),
            _ => Ok(value),
        }
    }

    fn write(&mut self, dart: DartId, offset: u64, value: u32) -> Result<(), BusError> {
        let mut models = self.0.borrow_mut();
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
                self.2.walks.borrow_mut().push(self.2.visible_table.get());
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
                    self.2.walks.borrow_mut().push(self.2.visible_table.get());
                }
            }
            _ => {
                model.file.insert(offset, value);
            }
        }
        Ok(())
    }

    fn complete_stores(&mut self) {
        self.2.visible_table.set(self.2.table.get());
    }

    fn order_loads(&mut self) {
        self.2.loadable.set(self.2.landed.get());
    }

    fn power(&self, dart: DartId) -> Power {
        let mut models = self.0.borrow_mut();
        let model = &mut models[dart.index()];
        if let Some(left) = model.looks_until_on.take() {
            model.looks_until_on = left.checked_sub(1);
            if left == 0 {
                model.set_domain(ON);
            }
        }
        model.was_looked_at.set(true);
        Power::from_register(model.domain)
    }

    fn ticks(&self) -> u64 {
        self.1.set(self.1.get() + 1000);
        self.1.get()
    }

    fn ticks_per_millisecond(&self) -> u64 {
        24_000
    }
}

impl Bench {
    fn of(count: usize) -> Self {
        let model = || Model { domain: ON, busy_reads: Some(3), ..Model::default() };
        Self(
            Rc::new(RefCell::new((0..count).map(|_| model()).collect())),
            Rc::default(),
            Rc::default(),
        )
    }

    /// What the access of the device behind `dart` goes by.
    fn device_reads(&self, dart: usize) -> Option<(u32, u64)> {
        self.with(dart, |model| model.device_reads(self.2.visible_table.get()))
    }

    /// The engine stores a word of a table, and forgets what was walked before.
    fn store_entry(&self, value: u64) {
        self.2.table.set(value);
        self.2.walks.borrow_mut().clear();
    }

    /// Whether every walk since the last store has found what was stored, and there was one.
    fn walks_find(&self, value: u64) -> bool {
        let walks = self.2.walks.borrow();
        !walks.is_empty() && walks.iter().all(|found| *found == value)
    }

    /// Whether a load finds everything that devices wrote.
    fn loads_are_ordered(&self) -> bool {
        self.2.landed.get() != 0 && self.2.loadable.get() == self.2.landed.get()
    }

    fn with<T>(&self, dart: usize, look: impl FnOnce(&mut Model) -> T) -> T {
        look(&mut self.0.borrow_mut()[dart])
    }

    fn file(&self, dart: usize, offset: u64) -> u32 {
        self.with(dart, |model| model.file.get(&offset).copied().unwrap_or(0))
    }
}

fn dart(index: usize) -> DartId {
    DartId::new(index).expect("a test names DARTs that exist")
}

fn stream(index: usize) -> StreamId {
    StreamId::new(index).expect("a test names streams that exist")
}

/// The access with which the guest asks for 4K pages.
fn read_page_size() -> DartAccess {
    DartAccess { dart: dart(0), offset: PARAMS1, bytes: 4, write: None }
}

const ROOT: HostGranule = HostGranule((0x8_1000_0000_u64 >> 14) as u32);

fn taken(count: usize) -> (Bench, Darts<Bench>) {
    let bench = Bench::of(count);
    let mut darts = Darts::new(bench.clone(), count, true);
    for index in 0..count {
        assert_eq!(darts.take_over(dart(index)), Ok(()));
    }
    (bench, darts)
}

#[test]
fn a_dart_that_is_taken_over_lets_no_stream_through() {
    let (bench, _) = taken(1);
    for index in 0..STREAMS {
        assert_eq!(bench.file(0, tcr_of(stream(index))), 0x80);
        assert_eq!(bench.file(0, ttbr_of(stream(index), 0)), 0);
    }
    assert_eq!(bench.file(0, STREAMS_ENABLE), 0xffff);
    assert_eq!(bench.with(0, |model| model.stale), 0, "and nothing older is used");
}

#[test]
fn a_stream_is_attached_only_when_nothing_older_is_used() {
    let (bench, mut darts) = taken(1);
    assert_eq!(darts.attach(dart(0), stream(3), DomainId(0), ROOT), Ok(()));
    assert_eq!(bench.file(0, ttbr_of(stream(3), 0)), 0x8081_0000);
    assert_eq!(bench.file(0, tcr_of(stream(3))), 0x80);
    assert_eq!(bench.with(0, |model| model.stale), 0);
    darts.block(dart(0), stream(3));
    assert_eq!(bench.file(0, ttbr_of(stream(3), 0)), 0);
    assert_eq!(bench.with(0, |model| model.stale), 0);
}

#[test]
fn an_invalidation_reaches_every_dart_of_a_domain_and_waits() {
    let (bench, mut darts) = taken(2);
    let mut members = Members::default();
    members.insert(dart(0), stream(0));
    members.insert(dart(1), stream(1));
    assert_eq!(darts.invalidate(DomainId(0), &members), Ok(()));
    assert_eq!(bench.with(0, |model| model.flushed.last().copied()), Some(1));
    assert_eq!(bench.with(1, |model| model.flushed.last().copied()), Some(2));
    assert_eq!(bench.with(1, |model| model.busy_left.get()), 0, "it waited");
}

#[test]
fn a_busy_bit_that_never_clears_is_an_error_and_no_hang() {
    let (bench, mut darts) = taken(1);
    bench.with(0, |model| model.busy_reads = None);
    let mut members = Members::default();
    members.insert(dart(0), stream(0));
    assert_eq!(darts.invalidate(DomainId(0), &members), Err(InvalidateTimedOut));
    let before = bench.1.get();
    assert_eq!(darts.invalidate(DomainId(0), &members), Err(InvalidateTimedOut));
    assert!(bench.1.get() - before < 24_000, "it is waited for once");
    bench.with(0, |model| (model.busy_reads, model.busy_left) = (Some(3), Cell::new(0)));
    assert_eq!(darts.invalidate(DomainId(0), &members), Ok(()), "it ended a command");
}

#[test]
fn a_dart_that_ends_no_command_stays_the_guests() {
    let bench = Bench::of(1);
    bench.with(0, |model| model.busy_reads = None);
    let mut darts = Darts::new(bench, 1, true);
    assert_eq!(darts.take_over(dart(0)), Err(TakeoverFailed::TimedOut));
    let mut ownership = Ownership::new(&darts, 1);
    assert_eq!(ownership.route(&mut darts, &read_page_size()), Route::Passthrough);
    assert_eq!(ownership.owner(&darts, dart(0)), Owner::Firmware);
}

#[test]
fn a_locked_dart_and_one_that_translates_are_left_alone() {
    for prepare in [
        |model: &mut Model| model.file.extend([(CONFIG, CONFIG_LOCK)]),
        |model: &mut Model| {
            model.file.extend([(TCR + 8, 0x80), (TTBR + 36, 0x8000_1234)]);
        },
    ] {
        let bench = Bench::of(1);
        bench.with(0, prepare);
        let before = bench.with(0, |model| model.file.clone());
        let mut darts = Darts::new(bench.clone(), 1, true);
        let mut ownership = Ownership::new(&darts, 1);
        assert_eq!(ownership.owner(&darts, dart(0)), Owner::Firmware);
        assert_eq!(ownership.route(&mut darts, &read_page_size()), Route::Passthrough);
        darts.restore(dart(0));
        assert_eq!(darts.attach(dart(0), stream(0), DomainId(0), ROOT), Ok(()));
        darts.block(dart(0), stream(0));
        assert_eq!(bench.with(0, |model| model.file.clone()), before);
    }
}

#[test]
fn bypass_alone_does_not_keep_a_dart_from_being_emulated() {
    let bench = Bench::of(1);
    bench.with(0, |model| model.file.insert(TCR, 0x1100));
    let mut darts = Darts::new(bench.clone(), 1, true);
    let condition = darts.condition(dart(0)).expect("it is on");
    assert_eq!((condition.bypass, condition.is_taken()), (StreamSet(1), false));
    assert_eq!(darts.take_over(dart(0)), Ok(()));
    assert_eq!(bench.file(0, TCR), 0x80);
}

/// The model panics if it is accessed while the driver knows that it does not answer.
#[test]
fn a_dart_that_is_off_is_not_accessed_and_is_programmed_when_it_is_on_again() {
    let bench = Bench::of(1);
    bench.with(0, |model| model.set_domain(OFF));
    let mut darts = Darts::new(bench.clone(), 1, true);
    let mut ownership = Ownership::new(&darts, 1);
    assert_eq!(ownership.owner(&darts, dart(0)), Owner::Unknown);
    bench.with(0, |model| model.set_domain(ON));
    assert_eq!(ownership.owner(&darts, dart(0)), Owner::Passthrough);
    assert_eq!(ownership.route(&mut darts, &read_page_size()), Route::Emulated);
    assert_eq!(darts.attach(dart(0), stream(1), DomainId(0), ROOT), Ok(()));

    // It goes off and forgets; meanwhile the engine goes on.
    bench.with(0, |model| model.set_domain(OFF));
    let mut members = Members::default();
    members.insert(dart(0), stream(1));
    assert_eq!(darts.invalidate(DomainId(0), &members), Ok(()));
    assert_eq!(darts.attach(dart(0), stream(2), DomainId(1), ROOT), Ok(()));
    assert_eq!(darts.next_fault(dart(0)), None);
    bench.with(0, |model| model.set_domain(ON));
    darts.restore(dart(0));
    for attached in [1, 2] {
        assert_eq!(bench.file(0, ttbr_of(stream(attached), 0)), 0x8081_0000);
        assert_eq!(bench.file(0, tcr_of(stream(attached))), 0x80);
    }
    assert_eq!(bench.file(0, tcr_of(stream(0))), 0x80, "and the others still fault");
}

#[test]
fn a_fault_is_reported_once_and_cleared() {
    let (bench, mut darts) = taken(2);
    let latch =
        vec![(ERROR, 0x8500_0404), (ERROR_ADDRESS_LOW, 0x1234_5678), (ERROR_ADDRESS_HIGH, 0)];
    bench.with(1, |model| model.file.extend(latch));
    assert_eq!(darts.next_fault(dart(0)), None, "it is another's");
    let fault = DeviceFault { stream: stream(5), iova: 0x1234_5678, is_write: true };
    assert_eq!(darts.next_fault(dart(1)), Some(fault));
    assert_eq!(darts.next_fault(dart(1)), None);
    assert_eq!(bench.file(1, ERROR), 0);
}

#[test]
fn an_idle_dart_is_tested_and_left_as_it_was() {
    let bench = Bench::of(1);
    let mut darts = Darts::new(bench.clone(), 1, true);
    bench.with(0, |model| model.file.insert(STREAM_SELECT, 0x5));
    let tested = darts.test_idle(dart(0)).expect("it is idle");
    assert_eq!((tested.ttbr_bits, tested.tcr), (0x7fff_ffff, 0x80));
    assert_eq!(bench.file(0, tcr_of(stream(IDLE_STREAM))), 0);
    assert!(tested.invalidations.is_some_and(|ticks| ticks > 0));
    assert_eq!(bench.with(0, |model| model.flushed.clone()), [1 << IDLE_STREAM; ROUNDS as usize]);
    assert_eq!(bench.file(0, STREAM_SELECT), 0x5);
    assert_eq!(bench.file(0, ttbr_of(stream(IDLE_STREAM), 0)), 0);
    bench.with(0, |model| model.busy_reads = None);
    let tested = darts.test_idle(dart(0)).expect("it is still idle");
    assert_eq!(tested.invalidations, None, "and a command that never ends is given up");
}

/// The model panics at an access to what is off; the others would show in their registers.
#[test]
fn a_dart_that_is_not_idle_is_not_tested() {
    let bench = Bench::of(5);
    bench.with(0, |model| model.set_domain(OFF));
    bench.with(1, |model| model.file.insert(CONFIG, CONFIG_LOCK));
    bench.with(2, |model| model.file.insert(TCR, 0x80));
    bench.with(2, |model| model.file.insert(TTBR, 0x8080_1234));
    let last = tcr_of(stream(IDLE_STREAM));
    bench.with(3, |model| model.file.insert(last, 0x100));
    let mut darts = Darts::new(bench.clone(), 5, true);
    assert_eq!(darts.take_over(dart(4)), Ok(()));
    for index in 0..5 {
        assert_eq!(darts.test_idle(dart(index)), None, "DART {index}");
        if index < 4 {
            assert_eq!(bench.with(index, |model| model.flushed.len()), 0);
        }
    }
}

#[test]
fn table_stores_are_visible_to_every_walk_that_follows_an_invalidation() {
    let (bench, mut darts) = taken(2);
    let mut members = Members::default();
    members.insert(dart(0), stream(0));
    members.insert(dart(1), stream(1));
    for entry in 1..4 {
        bench.store_entry(entry);
        assert_eq!(darts.invalidate(DomainId(0), &members), Ok(()));
        assert!(bench.walks_find(entry), "the DART walks an entry from before the store");
    }
}

#[test]
fn tables_are_visible_before_a_register_names_them() {
    let (bench, mut darts) = taken(1);
    bench.store_entry(1);
    assert_eq!(darts.attach(dart(0), stream(3), DomainId(0), ROOT), Ok(()));
    assert!(bench.walks_find(1), "a table was named before its entries were visible");
    bench.store_entry(2);
    bench.with(0, |model| model.file.clear());
    darts.restore(dart(0));
    assert_eq!(bench.file(0, ttbr_of(stream(3), 0)), 0x8081_0000);
    assert!(bench.walks_find(2), "a DART that forgot its tables walks older ones");
}

#[test]
fn what_devices_wrote_is_loaded_after_an_invalidation_an_attach_and_a_block() {
    let (bench, mut darts) = taken(1);
    assert!(bench.loads_are_ordered(), "after it was taken over");
    assert_eq!(darts.attach(dart(0), stream(0), DomainId(0), ROOT), Ok(()));
    assert!(bench.loads_are_ordered(), "after an attach");
    let mut members = Members::default();
    members.insert(dart(0), stream(0));
    assert_eq!(darts.invalidate(DomainId(0), &members), Ok(()));
    assert!(bench.loads_are_ordered(), "after an invalidation");
    darts.block(dart(0), stream(0));
    assert!(bench.loads_are_ordered(), "after a block");
}

/// A DART whose device has cached an entry.
fn used() -> (Bench, Darts<Bench>, Members) {
    let (bench, mut darts) = taken(1);
    bench.store_entry(1);
    assert_eq!(darts.attach(dart(0), stream(DEVICE), DomainId(0), ROOT), Ok(()));
    assert_eq!(bench.device_reads(0), Some((TTBR_OF_ROOT, 1)));
    let mut members = Members::default();
    members.insert(dart(0), stream(DEVICE));
    (bench, darts, members)
}

const TTBR_OF_ROOT: u32 = 0x8081_0000;
const OTHER_ROOT: HostGranule = HostGranule(ROOT.0 + 1);
const TTBR_OF_OTHER_ROOT: u32 = 0x8081_0004;

/// The domain gates its clock by itself: registers and TLB stay, and an access wakes it.
#[test]
fn a_dart_whose_clock_is_gated_is_flushed_attached_and_blocked() {
    let (bench, mut darts, members) = used();
    bench.with(0, |model| model.set_domain(GATED));
    bench.store_entry(2);
    assert_eq!(darts.invalidate(DomainId(0), &members), Ok(()));
    assert_eq!(bench.device_reads(0), Some((TTBR_OF_ROOT, 2)), "a stale entry outlives its frame");
    bench.with(0, |model| model.set_domain(GATED));
    assert_eq!(darts.attach(dart(0), stream(DEVICE), DomainId(1), OTHER_ROOT), Ok(()));
    assert_eq!(bench.device_reads(0), Some((TTBR_OF_OTHER_ROOT, 2)), "an older root");
    bench.with(0, |model| model.set_domain(GATED));
    darts.block(dart(0), stream(DEVICE));
    assert_eq!(bench.device_reads(0), None, "a stream that is blocked");
}

#[test]
fn a_dart_that_lost_its_power_translates_nothing_until_it_is_restored() {
    for is_noticed in [false, true] {
        let (bench, mut darts, members) = used();
        bench.with(0, |model| model.set_domain(OFF));
        bench.store_entry(2);
        if is_noticed {
            assert_eq!(darts.invalidate(DomainId(0), &members), Ok(()));
        }
        assert!(darts.is_confirmed());
        bench.with(0, |model| model.set_domain(ON));
        assert_eq!(bench.device_reads(0), None);
        darts.restore(dart(0));
        assert_eq!(bench.device_reads(0), Some((TTBR_OF_ROOT, 2)));
        assert_eq!(darts.repairs(dart(0)), 1);
        darts.restore(dart(0));
        assert_eq!(darts.repairs(dart(0)), 1, "once is enough");
    }
}

/// Without the guest's access: another DART of the domain is flushed, or another stream attached.
#[test]
fn a_command_to_a_dart_that_lost_its_power_programs_all_of_it() {
    let (bench, mut darts, members) = used();
    bench.with(0, |model| model.set_domain(OFF));
    assert_eq!(darts.invalidate(DomainId(0), &members), Ok(()));
    bench.with(0, |model| model.set_domain(ON));
    bench.store_entry(2);
    assert_eq!(darts.invalidate(DomainId(0), &members), Ok(()));
    assert_eq!(bench.device_reads(0), Some((TTBR_OF_ROOT, 2)));
    assert_eq!(bench.file(0, STREAMS_ENABLE), 0xffff);
}

/// Its clock is held off: it keeps what it has cached, and does not answer.
#[test]
fn a_flush_that_a_dart_does_not_answer_is_not_done_and_made_up_for() {
    let (bench, mut darts, members) = used();
    bench.with(0, |model| model.set_domain(HELD));
    bench.store_entry(2);
    assert_eq!(darts.invalidate(DomainId(0), &members), Err(InvalidateTimedOut));
    // As the engine does: what may still be reached is cut off.
    darts.block(dart(0), stream(DEVICE));
    assert!(!darts.is_confirmed(), "its device may use what it has cached");
    bench.with(0, |model| model.set_domain(ON));
    darts.restore(dart(0));
    assert_eq!(bench.device_reads(0), None, "the stream was cut off");
    assert!(darts.is_confirmed());
    let before = bench.1.get();
    bench.with(0, |model| model.set_domain(HELD));
    assert_eq!(darts.invalidate(DomainId(0), &members), Err(InvalidateTimedOut));
    let waited = bench.1.get() - before;
    assert_eq!(darts.invalidate(DomainId(0), &members), Err(InvalidateTimedOut));
    assert!(bench.1.get() - before < 2 * waited, "it is waited for once");
}

/// After a flush that it did not answer. A device that is suspended may never be accessed again.
#[test]
fn dart_that_loses_its_power_holds_nothing_older() {
    for is_restored in [false, true] {
        let (bench, mut darts, members) = used();
        bench.with(0, |model| model.set_domain(HELD));
        assert_eq!(darts.invalidate(DomainId(0), &members), Err(InvalidateTimedOut));
        assert!(!darts.is_confirmed(), "its device may use what it has cached");
        bench.with(0, |model| model.set_domain(OFF));
        if is_restored {
            darts.restore(dart(0));
        }
        assert!(darts.is_confirmed(), "it has forgotten what it had cached");
        bench.with(0, |model| model.set_domain(ON));
        bench.store_entry(2);
        assert_eq!(bench.device_reads(0), None, "it translates nothing before it is programmed");
        assert!(darts.is_confirmed());
        darts.restore(dart(0));
        assert_eq!(bench.device_reads(0), Some((TTBR_OF_ROOT, 2)));
    }
}

/// The power goes, goes and comes, or the clock is held off, at each register access of each
/// command in turn.
#[test]
fn power_that_changes_within_a_command_leaves_nothing_older_in_use() {
    type Command = fn(&mut Darts<Bench>, &Members) -> Result<(), InvalidateTimedOut>;
    let commands: [(Command, Option<(u32, u64)>); 3] = [
        (|darts, members| darts.invalidate(DomainId(0), members), Some((TTBR_OF_ROOT, 2))),
        (
            |darts, _| darts.set_ttbr(dart(0), stream(DEVICE), Some(OTHER_ROOT)),
            Some((TTBR_OF_OTHER_ROOT, 2)),
        ),
        (|darts, _| darts.set_ttbr(dart(0), stream(DEVICE), None), None),
    ];
    let changes = [Change::Power(OFF), Change::Cycle, Change::Power(HELD), Change::BusError];
    for ((command, expected), change) in
        commands.into_iter().flat_map(|command| changes.map(|change| (command, change)))
    {
        for at in 0.. {
            let (bench, mut darts, members) = used();
            bench.with(0, |model| model.is_silent = at % 2 == 0);
            bench.store_entry(2);
            bench.with(0, |model| model.plan.set(Some((at, change))));
            let done = command(&mut darts, &members);
            let is_over = bench.with(0, |model| model.plan.take().is_some());
            bench.with(0, |model| model.set_domain(ON));
            let found = bench.device_reads(0);
            let name =
                format_args!("{change:?} at access {at}: {done:?}, then {found:?}").to_string();
            match done {
                Ok(()) => assert!(found.is_none() || found == expected, "{name}"),
                Err(InvalidateTimedOut) => assert_eq!(change, Change::Power(HELD), "{name}"),
            }
            darts.restore(dart(0));
            assert_eq!(bench.device_reads(0), expected, "{name}, after it was restored");
            if is_over {
                assert!(at > 5, "a command of {at} accesses");
                break;
            }
        }
    }
}

#[test]
fn a_dart_that_answers_with_bus_errors_though_it_has_power_is_not_flushed() {
    let (bench, mut darts, members) = used();
    bench.with(0, |model| {
        model.plan.set(Some((0, Change::BusError)));
        model.is_plan_lasting = true;
    });
    bench.store_entry(2);
    assert_eq!(darts.invalidate(DomainId(0), &members), Err(InvalidateTimedOut));
    bench.with(0, |model| model.plan.set(None));
    darts.restore(dart(0));
    assert_eq!(bench.device_reads(0), Some((TTBR_OF_ROOT, 2)));
}

/// Whatever else a TCR reads back.
#[test]
fn restoring_compares_what_counts_and_no_more() {
    let (bench, mut darts, _) = used();
    bench.with(0, |model| model.tcr_extra = 0x1000);
    let flushes = bench.with(0, |model| model.flushed.len());
    let accesses = bench.with(0, |model| model.accesses);
    darts.restore(dart(0));
    assert_eq!(bench.with(0, |model| model.flushed.len()), flushes, "it was programmed again");
    assert_eq!(bench.with(0, |model| model.accesses) - accesses, 3);
    for (register, value) in [
        (tcr_of(stream(DEVICE)), 0),
        (tcr_of(stream(DEVICE)), 0x180),
        (ttbr_of(stream(DEVICE), 0), 0),
        (ttbr_of(stream(DEVICE), 0), TTBR_OF_OTHER_ROOT),
        (tcr_of(stream(IDLE_STREAM)), 0),
    ] {
        let repairs = darts.repairs(dart(0));
        bench.with(0, |model| model.file.insert(register, value));
        darts.restore(dart(0));
        assert_eq!(darts.repairs(dart(0)), repairs + 1, "{register:#x} is {value:#x}");
        assert_eq!(bench.file(0, ttbr_of(stream(DEVICE), 0)), TTBR_OF_ROOT);
        assert_eq!(bench.file(0, tcr_of(stream(DEVICE))), 0x80);
    }
}

#[test]
fn a_dart_that_the_guest_has_and_that_does_not_answer_gives_it_a_bus_error() {
    for domain in [OFF, HELD] {
        let bench = Bench::of(1);
        let mut darts = Darts::new(bench.clone(), 1, true);
        bench.with(0, |model| model.set_domain(domain));
        assert_eq!(darts.condition(dart(0)), None);
        assert_eq!(darts.condition(dart(0)), None, "not even when it is known not to answer");
        assert_eq!(darts.read(dart(0), PARAMS2), Err(BusError));
        assert_eq!(darts.write(dart(0), STREAM_SELECT, 1), Err(BusError));
        bench.with(0, |model| model.set_domain(GATED));
        assert_eq!(darts.write(dart(0), STREAM_SELECT, 1), Ok(()));
        assert_eq!(darts.read(dart(0), STREAM_SELECT), Ok(1));
    }
}

#[test]
fn restoring_a_dart_that_does_not_answer_accesses_nothing() {
    for domain in [OFF, HELD] {
        let (bench, mut darts, _) = used();
        bench.with(0, |model| model.set_domain(domain));
        let accesses = bench.with(0, |model| model.accesses);
        darts.restore(dart(0));
        assert_eq!(darts.next_fault(dart(0)), None);
        assert_eq!(bench.with(0, |model| model.accesses), accesses);
        bench.with(0, |model| model.set_domain(ON));
        darts.restore(dart(0));
        assert_eq!(bench.device_reads(0), Some((TTBR_OF_ROOT, 1)));
    }
}

#[test]
fn a_flush_that_one_dart_of_a_domain_does_not_answer_reaches_the_other() {
    let (bench, mut darts) = taken(2);
    let mut members = Members::default();
    members.insert(dart(0), stream(0));
    members.insert(dart(1), stream(1));
    bench.with(0, |model| model.set_domain(HELD));
    assert_eq!(darts.invalidate(DomainId(0), &members), Err(InvalidateTimedOut));
    assert_eq!(bench.with(1, |model| model.flushed.last().copied()), Some(2));
}

#[test]
fn a_domain_that_is_on_its_way_is_waited_for() {
    let (bench, mut darts, members) = used();
    bench.with(0, |model| model.set_domain(HELD));
    bench.with(0, |model| model.looks_until_on = Some(2));
    bench.store_entry(2);
    assert_eq!(darts.invalidate(DomainId(0), &members), Ok(()));
    assert_eq!(bench.device_reads(0), Some((TTBR_OF_ROOT, 2)));
}

#[test]
fn a_dart_that_loses_its_power_while_it_is_taken_over_is_looked_at_again() {
    let bench = Bench::of(1);
    let mut darts = Darts::new(bench.clone(), 1, true);
    let mut ownership = Ownership::new(&darts, 1);
    let context = 1 + STREAMS as u32 * (1 + TTBRS as u32);
    bench.with(0, |model| model.plan.set(Some((context + 20, Change::Power(OFF)))));
    assert_eq!(ownership.route(&mut darts, &read_page_size()), Route::Refused);
    assert_eq!(ownership.owner(&darts, dart(0)), Owner::Unknown);
    bench.with(0, |model| model.set_domain(ON));
    assert_eq!(ownership.owner(&darts, dart(0)), Owner::Passthrough);
    assert_eq!(ownership.route(&mut darts, &read_page_size()), Route::Emulated);
    assert_eq!(bench.file(0, tcr_of(stream(IDLE_STREAM))), 0x80);
}
