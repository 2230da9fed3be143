//! Every order of events at two or three CPUs, for each way in which CPUs share something at EL2.
//!
//! loom tries each interleaving, and each value that a load may see under the C11 memory model
//! (AArch64's is no weaker where acquire, release and compare-and-exchange are used as such). The
//! code is the one that runs at EL2, over loom's atomics; each model has a mistake beside it, made
//! where the code meets them, that must be found.
// UNSAFETY: the contents of loom's cells are reached by pointers that loom checks.
#![expect(unsafe_code, reason = "loom hands out pointers to what its cells hold")]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU8, AtomicU64, Ordering, fence};
use loom::thread;
use oche_el2::lock::{Once, SpinLock, StateByte};
use oche_el2::stage2::hardware::{Barrier, Hardware, InstructionFetch, Translations};
use oche_el2::stage2::{Lookup, Root, Stage2};
use oche_engine::host::{CpuAccess, Stage2 as _};
use oche_trace::directory::Layout;
use oche_trace::record::{Record, SEQUENCE_WORD};
use oche_trace::ring::{RingReader, RingWriter};
use oche_trace::words::Words;
use oche_types::addr::{Gfn, Hfn};
use oche_types::event::Event;
use oche_types::range::{PAGE, PhysRange};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Tries `model`, of two or three threads, in every order there is.
fn explore(model: impl Fn() + Send + Sync + 'static) {
    loom::model::Builder::new().check(model);
}

/// As [`explore`], in every order with at most so many forced switches, where all would take hours.
fn explore_within(switches: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(switches);
    builder.check(model);
}

/// What a state byte does other than it is reported.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weakness {
    None,
    /// What should acquire is relaxed.
    Acquire,
    /// What should release is.
    Release,
}

struct Byte(AtomicU8, Weakness);

impl Byte {
    fn new(weakness: Weakness) -> Self {
        Self(AtomicU8::new(0), weakness)
    }

    fn order(&self, order: Ordering) -> Ordering {
        match (self.1, order) {
            (Weakness::Acquire, Ordering::Acquire) | (Weakness::Release, Ordering::Release) => {
                Ordering::Relaxed
            }
            _ => order,
        }
    }
}

impl StateByte for Byte {
    fn exchange(&self, current: u8, new: u8, success: Ordering) -> bool {
        self.0.compare_exchange(current, new, self.order(success), Ordering::Relaxed).is_ok()
    }

    fn load(&self, order: Ordering) -> u8 {
        self.0.load(self.order(order))
    }

    fn store(&self, value: u8, order: Ordering) {
        self.0.store(value, self.order(order));
    }

    fn wait(&self) {
        thread::yield_now();
    }
}

type Shared = SpinLock<UnsafeCell<u64>, Byte>;

fn add(cell: &UnsafeCell<u64>) {
    cell.with_mut(|value| {
        // SAFETY: the lock is held; loom panics if it is not.
        unsafe { *value += 1 }
    });
}

/// One CPU waits for the lock, and so does another, or two others try once: with more that wait,
/// loom follows those that only wait for each other without end.
fn lock_model(weakness: Weakness, others_try: bool) {
    let lock = Arc::new(Shared::with(Byte::new(weakness), UnsafeCell::new(0)));
    let waiter = {
        let lock = Arc::clone(&lock);
        thread::spawn(move || add(&lock.lock()))
    };
    let mut expected = 1;
    if others_try {
        let trier = {
            let lock = Arc::clone(&lock);
            thread::spawn(move || lock.try_lock().map(|value| add(&value)).is_some())
        };
        expected += u64::from(lock.try_lock().map(|value| add(&value)).is_some());
        expected += u64::from(trier.join().expect("the third CPU"));
    } else {
        add(&lock.lock());
        expected += 1;
    }
    waiter.join().expect("the other CPU");
    // SAFETY: all others are done.
    lock.lock().with(|value| assert_eq!(unsafe { *value }, expected));
}

#[test]
fn the_engine_s_lock_lets_one_of_two_cpus_in() {
    explore(|| lock_model(Weakness::None, false));
}

#[test]
fn the_engine_s_lock_lets_one_of_three_cpus_in() {
    explore(|| lock_model(Weakness::None, true));
}

#[test]
#[should_panic]
fn a_lock_that_does_not_acquire_is_found() {
    explore(|| lock_model(Weakness::Acquire, false));
}

#[test]
#[should_panic]
fn a_lock_that_does_not_release_is_found() {
    explore(|| lock_model(Weakness::Release, false));
}

/// One CPU steps an instruction in a page of which there are two copies: the lock stays closed from
/// the opening, over the return to the guest and the next trap, to the settling. Others who hold
/// the lock find the copies equal.
fn step_model(is_parked: bool) {
    let cell = || UnsafeCell::new(0);
    let copies = Arc::new([cell(), cell()]);
    let lock = Box::new(SpinLock::with(Byte::new(Weakness::None), Arc::clone(&copies)));
    // Until the end of the run.
    let lock: &'static _ = Box::leak(lock);
    let other = thread::spawn(move || {
        let copies = lock.lock();
        // SAFETY: the lock is held; loom panics if somebody is in it all the same.
        let [one, two] = copies.each_ref().map(|copy| copy.with(|value| unsafe { *value }));
        assert_eq!(one, two, "the copies differ under the lock");
        copies.iter().for_each(add);
    });
    // The guest's instruction, in the view, with no guard object.
    let step = || add(&copies[0]);
    let parked = lock.lock().park();
    let parked = if is_parked {
        step();
        parked
    } else {
        drop(lock.resume(parked));
        step();
        lock.lock().park()
    };
    // The next trap settles.
    let settled = lock.resume(parked);
    // SAFETY: the lock is held.
    let new = settled[0].with(|value| unsafe { *value });
    // SAFETY: the same.
    settled[1].with_mut(|value| unsafe { *value = new });
    drop(settled);
    other.join().expect("the other CPU");
    // SAFETY: it came from a box, and nobody has it any more.
    drop(unsafe { Box::from_raw(core::ptr::from_ref(lock).cast_mut()) });
}

#[test]
fn a_page_that_is_open_for_one_cpu_is_settled_before_another_comes() {
    explore(|| step_model(true));
}

#[test]
#[should_panic]
fn a_step_that_opens_the_lock_is_found() {
    explore(|| step_model(false));
}

fn once_model(weakness: Weakness) {
    let cell = Arc::new(Once::<UnsafeCell<u64>, Byte>::with(Byte::new(weakness)));
    let reader = {
        let cell = Arc::clone(&cell);
        thread::spawn(move || {
            if let Some(value) = cell.get() {
                // SAFETY: nobody writes it any more; loom panics if somebody does.
                value.with(|value| assert!(unsafe { *value } != 0));
            }
        })
    };
    let rival = {
        let cell = Arc::clone(&cell);
        thread::spawn(move || cell.set(UnsafeCell::new(2)))
    };
    let value = UnsafeCell::new(0);
    add(&value);
    cell.set(value);
    reader.join().expect("the reader");
    rival.join().expect("the rival");
    assert!(cell.get().is_some());
}

#[test]
fn what_boot_writes_once_is_whole_for_every_cpu() {
    explore(|| once_model(Weakness::None));
}

#[test]
#[should_panic]
fn a_cell_that_does_not_release_is_found() {
    explore(|| once_model(Weakness::Release));
}

/// The trace's memory, of which only the words that are used exist.
struct TraceWords {
    words: BTreeMap<usize, AtomicU64>,
    load: Ordering,
    store: Ordering,
    number_is_last: bool,
}

impl TraceWords {
    fn new(layout: Layout, (load, store): (Ordering, Ordering), number_is_last: bool) -> Self {
        let end = layout.total_bytes() / 8;
        let ring = end - layout.ring_records() as usize * 4;
        // The head, and the ring.
        let words = [0x100 / 8]
            .into_iter()
            .chain(ring..end)
            .map(|word| (word, AtomicU64::new(0)))
            .collect();
        Self { words, load, store, number_is_last }
    }
}

impl Words for TraceWords {
    fn load(&self, index: usize) -> u64 {
        self.words.get(&index).map_or(0, |word| word.load(self.load))
    }

    fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.words.get(&index) {
            word.store(value, self.store);
        }
    }

    fn store_record(&self, index: usize, record: &Record) {
        let numbered = [SEQUENCE_WORD, 0, 2, 3];
        let order = if self.number_is_last { [0, 2, 3, SEQUENCE_WORD] } else { numbered };
        order.into_iter().for_each(|word| Words::store(self, index + word, record.0[word]));
    }
}

/// One CPU writes two records into a ring of one, while a reader reads: each record that it is
/// given is whole.
fn ring_model(orders: (Ordering, Ordering), number_is_last: bool) {
    let layout = Layout::new(1, 32);
    let words = Arc::new(TraceWords::new(layout, orders, number_is_last));
    let mut writer = RingWriter::new(layout, 0).expect("a ring");
    let mut write = {
        let words = Arc::clone(&words);
        move |number: u64| {
            writer.record(
                &*words,
                10 + number,
                0,
                &Event::InvalidateTimedOut {
                    dart: oche_types::dart::stream::DartId::new(number as usize).expect("a DART"),
                },
            )
        }
    };
    write(1);
    let reader = {
        let words = Arc::clone(&words);
        thread::spawn(move || {
            let mut reader = RingReader::new(layout, 0).expect("a ring");
            let mut into = [Record::default(); 1];
            let batch = reader.read(&*words, &mut into);
            for record in &into[..batch.count] {
                let dart = match record.event() {
                    Some(Event::InvalidateTimedOut { dart }) => dart.index() as u64,
                    other => panic!("a record that nobody wrote: {other:?}"),
                };
                assert_eq!(record.0[0], 10 + dart, "a record of two halves");
            }
        })
    };
    write(2);
    reader.join().expect("the reader");
}

#[test]
fn a_record_of_the_trace_is_whole_or_not_given() {
    explore(|| ring_model((Ordering::Acquire, Ordering::Release), false));
}

#[test]
#[should_panic]
fn a_reader_of_the_trace_that_does_not_acquire_is_found() {
    explore(|| ring_model((Ordering::Relaxed, Ordering::Release), false));
}

#[test]
#[should_panic]
fn a_writer_of_the_trace_that_numbers_last_is_found() {
    explore(|| ring_model((Ordering::Acquire, Ordering::Release), true));
}

const TABLES: u64 = 1 << 40;
const PAGE_IN_MOTION: Gfn = Gfn(0x4_0001);
const HOME: Hfn = Hfn(PAGE_IN_MOTION.0);
const NEW_PLACE: Hfn = Hfn(0x9_0000);
const AWAY_AND_BACK: [Hfn; 2] = [NEW_PLACE, HOME];
/// The bits of an entry that say which CPU synchronises the page's instructions.
const MARKS: u64 = 0x1f << 55;

/// The machine of two CPUs at one page: its entry is an atomic word, all others are set before.
struct Machine {
    others: Mutex<BTreeMap<(u64, usize), u64>>,
    entry: (u64, usize),
    word: AtomicU64,
    /// Held by an access, from the walk to its end: an invalidation waits for those under way, and
    /// those that come later walk anew.
    access: loom::sync::Mutex<()>,
    /// The page's bytes at home and in the new place. Where it moves, they are the number of the
    /// copy.
    home: AtomicU64,
    away: AtomicU64,
    /// The newest copy that instruction caches have of each place.
    home_instructions: AtomicU64,
    away_instructions: AtomicU64,
    weak_spot: WeakSpot,
}

/// What a machine does other than it is reported.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WeakSpot {
    None,
    /// An invalidation does not wait for accesses under way.
    Invalidation,
    /// What is to be stored if nothing changed is stored in any case.
    Exchange,
    /// Entries have no room for a CPU's mark.
    Mark,
}

#[derive(Clone)]
struct Cpu(Arc<Machine>);

impl Hardware for Cpu {
    fn load(&self, table: u64, index: usize) -> u64 {
        if (table, index) == self.0.entry {
            return self.0.word.load(Ordering::Acquire);
        }
        self.0.others.lock().expect("no panic").get(&(table, index)).copied().unwrap_or(0)
    }

    fn store(&self, table: u64, index: usize, value: u64) {
        if (table, index) == self.0.entry {
            // As an exchange: of a plain store loom does not know that it never comes between what
            // an exchange compares and what it stores.
            self.0.word.swap(value, Ordering::Release);
            return;
        }
        self.0.others.lock().expect("no panic").insert((table, index), value);
    }

    fn exchange(&self, table: u64, index: usize, old: u64, new: u64) -> bool {
        assert_eq!((table, index), self.0.entry);
        if self.0.weak_spot == WeakSpot::Exchange {
            self.0.word.store(new, Ordering::Release);
            return true;
        }
        let kept = if self.0.weak_spot == WeakSpot::Mark { !MARKS } else { u64::MAX };
        let (old, new) = (old & kept, new & kept);
        self.0.word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn barrier(&self, _: Barrier) {
        fence(Ordering::SeqCst);
    }

    /// Complete when no access through an older translation is under way.
    fn invalidate(&self, _: Translations) {
        if self.0.weak_spot != WeakSpot::Invalidation {
            drop(self.begin_access());
        }
    }

    fn select_tables(&self, _: u64) {}

    fn instruction_fetch(&self) -> InstructionFetch {
        InstructionFetch { needs_clean: true, needs_invalidation: true }
    }

    fn data_line_bytes(&self) -> u64 {
        PAGE
    }

    /// The bytes as this CPU sees them reach the instruction caches, unless newer ones have.
    fn clean_line(&self, address: u64) {
        let (bytes, instructions) = self.place(Hfn((address >> 12) as u32));
        instructions.fetch_max(bytes.load(Ordering::Relaxed), Ordering::SeqCst);
    }

    fn drop_instructions(&self) {}
}

impl Cpu {
    fn begin_access(&self) -> loom::sync::MutexGuard<'_, ()> {
        self.0.access.lock().expect("no panic")
    }

    /// The bytes at `at`, and what instruction caches have of them.
    fn place(&self, at: Hfn) -> (&AtomicU64, &AtomicU64) {
        if at == NEW_PLACE {
            return (&self.0.away, &self.0.away_instructions);
        }
        assert_eq!(at, HOME);
        (&self.0.home, &self.0.home_instructions)
    }

    /// The guest executes the page: whether it may. What it executes must be what is there.
    fn execute_page(&self, root: Root) -> bool {
        let _access = self.begin_access();
        let Lookup::Mapped { at, no_execute: false, .. } = root.lookup(self, PAGE_IN_MOTION) else {
            return false;
        };
        let (bytes, instructions) = self.place(at);
        let executed = instructions.load(Ordering::Relaxed);
        assert_eq!(executed, bytes.load(Ordering::Relaxed), "instructions of before are executed");
        true
    }

    /// The guest loads the page: what it finds, or `None` where it faults and is to try again.
    fn load_page(&self, root: Root) -> Option<u64> {
        let _access = self.begin_access();
        match root.lookup(self, PAGE_IN_MOTION) {
            Lookup::Mapped { at: NEW_PLACE, .. } => Some(self.0.away.load(Ordering::Relaxed)),
            Lookup::Mapped { at, .. } => {
                assert_eq!(at, HOME);
                Some(self.0.home.load(Ordering::Relaxed))
            }
            Lookup::InMotion => None,
            Lookup::Unmapped => panic!("the page is gone"),
        }
    }

    /// The guest stores into the page. Whether it went through.
    fn store_page(&self, root: Root, value: u64) -> bool {
        let _access = self.begin_access();
        match root.lookup(self, PAGE_IN_MOTION) {
            Lookup::Mapped { at: NEW_PLACE, .. } => {
                self.0.away.store(value, Ordering::Relaxed);
                true
            }
            Lookup::Mapped { .. } => {
                self.0.home.store(value, Ordering::Relaxed);
                true
            }
            _ => false,
        }
    }
}

/// A machine with the page prepared, at home, with 1 in it.
fn machine(weak_spot: WeakSpot) -> (Cpu, Stage2<Cpu>) {
    // Where the page's own entry comes to lie: the tables are taken in order.
    let entry = (TABLES + 2 * PAGE, (PAGE_IN_MOTION.0 % 512) as usize);
    let machine = Machine {
        others: Mutex::default(),
        entry,
        word: AtomicU64::new(0),
        access: loom::sync::Mutex::new(()),
        home: AtomicU64::new(1),
        away: AtomicU64::new(0),
        home_instructions: AtomicU64::new(0),
        away_instructions: AtomicU64::new(0),
        weak_spot,
    };
    let cpu = Cpu(Arc::new(machine));
    let memory = PhysRange { start: TABLES, end: TABLES + 4 * PAGE };
    let mut stage2 = Stage2::new(cpu.clone(), memory, 36, true).expect("room");
    // Three pages, so that each has an entry of its own from the start.
    let first = 0x4000_0000;
    stage2.map_ram(PhysRange { start: first, end: first + 3 * PAGE }).expect("room");
    stage2.prepare(PAGE_IN_MOTION).expect("prepared");
    (cpu, stage2)
}

/// One CPU moves the page, another uses it: it faults and tries again, and loses nothing.
fn motion_model(weak_spot: WeakSpot) {
    let (cpu, mut stage2) = machine(weak_spot);
    let root = stage2.root();
    let guest = {
        let cpu = cpu.clone();
        thread::spawn(move || {
            while !cpu.store_page(root, 7) {
                thread::yield_now();
            }
            let seen = loop {
                if let Some(seen) = cpu.load_page(root) {
                    break seen;
                }
                thread::yield_now();
            };
            assert_eq!(seen, 7, "a store is lost");
        })
    };
    stage2.break_page(PAGE_IN_MOTION);
    stage2.flush_broken();
    cpu.0.away.store(cpu.0.home.load(Ordering::Relaxed), Ordering::Relaxed);
    stage2.make_page(PAGE_IN_MOTION, NEW_PLACE, CpuAccess::ReadWrite);
    stage2.publish();
    guest.join().expect("the guest");
    assert_eq!(cpu.load_page(root), Some(7), "a store is lost");
}

#[test]
fn c2_a_cpu_that_faults_on_a_page_in_motion_tries_again_and_loses_nothing() {
    explore(|| motion_model(WeakSpot::None));
}

#[test]
#[should_panic]
fn a_move_that_does_not_wait_for_accesses_under_way_is_found() {
    explore(|| motion_model(WeakSpot::Invalidation));
}

/// One CPU, and with `other` a second one, fetches from the page, which has moved before, while
/// another moves it to each of `places`: no old entry comes back, what is executed is what is
/// there, and no mark keeps the page from being executed.
fn fetch_model(weak_spot: WeakSpot, other: Option<usize>, places: &'static [Hfn]) {
    let (cpu, mut stage2) = machine(weak_spot);
    let root = stage2.root();
    let fetch = move |cpu: &Cpu, number| {
        root.allow_execute(cpu, PAGE_IN_MOTION, number);
        cpu.execute_page(root)
    };
    let mut copy = 1;
    let mut make = {
        let cpu = cpu.clone();
        move |at| {
            stage2.break_page(PAGE_IN_MOTION);
            stage2.flush_broken();
            copy += 1;
            cpu.place(at).0.store(copy, Ordering::Relaxed);
            stage2.make_page(PAGE_IN_MOTION, at, CpuAccess::ReadWrite);
            stage2.publish();
        }
    };
    make(HOME);
    let mover = thread::spawn(move || places.iter().copied().for_each(make));
    let other = other.map(|number| {
        let cpu = cpu.clone();
        thread::spawn(move || fetch(&cpu, number))
    });
    fetch(&cpu, 0);
    mover.join().expect("the CPU that moves the page");
    if let Some(other) = other {
        other.join().expect("the other CPU that fetches");
    }
    let Lookup::Mapped { at, .. } = root.lookup(&cpu, PAGE_IN_MOTION) else { panic!("it is gone") };
    assert_eq!(Some(&at), places.last(), "an entry of before has come back");
    assert!(fetch(&cpu, 0), "a mark has stayed behind");
}

#[test]
fn a_fetch_while_the_page_moves_brings_no_old_entry_back() {
    explore(|| fetch_model(WeakSpot::None, None, &[NEW_PLACE]));
}

#[test]
#[should_panic]
fn a_fetch_that_stores_blindly_is_found() {
    explore(|| fetch_model(WeakSpot::Exchange, None, &[NEW_PLACE]));
}

#[test]
fn a_page_that_goes_and_comes_back_during_a_fetch_is_not_executed_too_early() {
    explore(|| fetch_model(WeakSpot::None, None, &AWAY_AND_BACK));
}

#[test]
fn a_page_that_goes_and_comes_back_during_two_fetches_is_not_executed_too_early() {
    explore_within(3, || fetch_model(WeakSpot::None, Some(1), &AWAY_AND_BACK));
}

#[test]
#[should_panic]
fn a_fetch_that_leaves_no_mark_is_found() {
    explore(|| fetch_model(WeakSpot::Mark, None, &AWAY_AND_BACK));
}

#[test]
#[should_panic]
fn two_cpus_with_the_same_mark_are_found() {
    explore_within(3, || fetch_model(WeakSpot::None, Some(0), &AWAY_AND_BACK));
}
