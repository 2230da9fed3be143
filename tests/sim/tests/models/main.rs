//! Every order of events at two or three CPUs, for each way in which CPUs share something at EL2.
//!
//! loom tries each interleaving, and each value that a load may see under the C11 memory model
//! (AArch64's is no weaker where acquire, release and compare-and-exchange are used as such). The
//! code is the one that runs at EL2, over loom's atomics; each model has a mistake beside it, made
//! where the code meets them, that must be found.
// UNSAFETY: the contents of loom's cells are reached by pointers that loom checks.
#![expect(unsafe_code, reason = "loom hands out pointers to what its cells hold")]

mod page_migration;
mod trace;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU8, AtomicU64, Ordering, fence};
use loom::thread;
use oche_el2::lock::{Once, SpinLock, StateByte};
use oche_el2::stage2::hardware::{Barrier, Hardware, Translations};
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
    /// An exchange that should release is.
    ReleasingExchange,
    /// A store that should release is.
    ReleasingStore,
}

/// A byte of a lock whose waiting CPUs have so much patience.
enum Byte<const PATIENCE: u8> {
    /// Every order of events is tried.
    State(AtomicU8, Weakness),
    /// Nothing but the length of a wait depends on it, so other orders of its events are no news.
    Turns(core::sync::atomic::AtomicU8),
}

impl<const PATIENCE: u8> Byte<PATIENCE> {
    fn state(weakness: Weakness) -> Self {
        Self::State(AtomicU8::new(0), weakness)
    }

    fn turns() -> Self {
        Self::Turns(core::sync::atomic::AtomicU8::new(0))
    }

    fn explored(&self) -> (&AtomicU8, Weakness) {
        match self {
            Self::State(byte, weakness) => (byte, *weakness),
            Self::Turns(_) => panic!("turns are only counted"),
        }
    }
}

// SAFETY: the contents of a lock with a weaker byte are loom's cells, which report what it does.
unsafe impl<const PATIENCE: u8> StateByte for Byte<PATIENCE> {
    const PATIENCE: u8 = PATIENCE;

    fn exchange(&self, current: u8, new: u8, success: Ordering) -> bool {
        let (byte, weakness) = self.explored();
        let success = match (success, weakness) {
            (Ordering::Acquire, Weakness::Acquire)
            | (Ordering::Release, Weakness::ReleasingExchange) => Ordering::Relaxed,
            (order, _) => order,
        };
        byte.compare_exchange(current, new, success, Ordering::Relaxed).is_ok()
    }

    fn set_bits(&self, bits: u8) -> u8 {
        self.explored().0.fetch_or(bits, Ordering::Relaxed)
    }

    fn load(&self, order: Ordering) -> u8 {
        match self {
            Self::State(byte, Weakness::Acquire) => byte.load(Ordering::Relaxed),
            Self::State(byte, _) => byte.load(order),
            Self::Turns(byte) => byte.load(order),
        }
    }

    fn store(&self, value: u8, order: Ordering) {
        match self {
            Self::State(byte, Weakness::ReleasingStore) => byte.store(value, Ordering::Relaxed),
            Self::State(byte, _) => byte.store(value, order),
            Self::Turns(byte) => byte.store(value, order),
        }
    }

    fn wait(&self) {
        thread::yield_now();
    }
}

type Shared<const PATIENCE: u8> = SpinLock<UnsafeCell<u64>, Byte<PATIENCE>>;

fn add(cell: &UnsafeCell<u64>) {
    cell.with_mut(|value| {
        // SAFETY: the lock is held; loom panics if it is not.
        unsafe { *value += 1 }
    });
}

/// One CPU waits for the lock, and so does another, or two others try once: with more that wait,
/// loom follows those that only wait for each other without end.
fn lock_model<const PATIENCE: u8>(weakness: Weakness, others_try: bool) {
    let cell = UnsafeCell::new(0);
    let lock = Arc::new(Shared::<PATIENCE>::with(Byte::state(weakness), Byte::turns(), cell));
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

const PATIENT: u8 = u8::MAX;
/// A CPU reserves the next turn whenever it waits.
const IMPATIENT: u8 = 0;

#[test]
fn the_engine_s_lock_lets_one_of_two_cpus_in() {
    explore(|| lock_model::<PATIENT>(Weakness::None, false));
}

#[test]
fn the_engine_s_lock_lets_one_of_three_cpus_in() {
    explore(|| lock_model::<PATIENT>(Weakness::None, true));
}

#[test]
fn a_reserved_turn_lets_one_of_two_cpus_in() {
    explore(|| lock_model::<IMPATIENT>(Weakness::None, false));
}

#[test]
fn a_reserved_turn_lets_one_of_three_cpus_in() {
    explore(|| lock_model::<IMPATIENT>(Weakness::None, true));
}

#[test]
#[should_panic]
fn a_lock_that_does_not_acquire_is_found() {
    explore(|| lock_model::<PATIENT>(Weakness::Acquire, false));
}

#[test]
#[should_panic]
fn a_lock_that_does_not_release_is_found() {
    explore(|| lock_model::<PATIENT>(Weakness::ReleasingExchange, false));
}

#[test]
#[should_panic]
fn a_lock_that_does_not_release_to_a_reserved_turn_is_found() {
    explore(|| lock_model::<IMPATIENT>(Weakness::ReleasingStore, false));
}

/// One CPU steps an instruction in a page of which there are two copies: the lock stays closed from
/// the opening, over the return to the guest and the next trap, to the settling. Others who hold
/// the lock find the copies equal.
fn step_model(is_parked: bool) {
    let cell = || UnsafeCell::new(0);
    let copies = Arc::new([cell(), cell()]);
    let state = Byte::<IMPATIENT>::state(Weakness::None);
    let lock = Box::new(SpinLock::with(state, Byte::turns(), Arc::clone(&copies)));
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
    // SAFETY: it came from a box, and no reference to it is left.
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
    let cell = Arc::new(Once::<UnsafeCell<u64>, Byte<PATIENT>>::with(Byte::state(weakness)));
    let reader = {
        let cell = Arc::clone(&cell);
        thread::spawn(move || {
            if let Some(value) = cell.get() {
                // SAFETY: it is not written any more; loom panics if it is.
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
    explore(|| once_model(Weakness::ReleasingStore));
}
