//! A spin lock and a write-once cell. EL2 takes no interrupts, so a CPU that holds a lock is never
//! preempted.

// UNSAFETY: the lock and the cell return references to the contents of an `UnsafeCell`.
#![expect(unsafe_code, reason = "references to the contents of cells that this module guards")]

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU8, Ordering};

use oche_types::MAX_CPUS;

/// The byte that holds the state of a lock or a cell: an [`AtomicU8`], or a test's replacement that
/// tries every order of events that the memory model allows.
///
/// # Safety
///
/// Each method is what its text says, as one atomic access with at least the given ordering. Locks
/// and cells lend out their contents by it: a byte that is weaker lends them to two CPUs at once.
pub unsafe trait StateByte {
    /// How many turns of other CPUs a CPU waits for a lock before it reserves the next one. At
    /// least as many as there are other CPUs: see [`SpinLock`].
    const PATIENCE: u8 = MAX_CPUS as u8;

    /// Stores `new` with ordering `success` if the byte is `current`. Returns whether it was. A
    /// failed exchange is relaxed.
    fn exchange(&self, current: u8, new: u8, success: Ordering) -> bool;
    /// Sets `bits`. Returns the byte before. Relaxed.
    fn set_bits(&self, bits: u8) -> u8;
    /// Loads it.
    fn load(&self, order: Ordering) -> u8;
    /// Stores it.
    fn store(&self, value: u8, order: Ordering);
    /// Waits between two loads of a byte that another CPU will change.
    fn wait(&self);
}

// SAFETY: each method is the atomic's access of that name, with the ordering that is given.
unsafe impl StateByte for AtomicU8 {
    #[inline]
    fn exchange(&self, current: u8, new: u8, success: Ordering) -> bool {
        self.compare_exchange(current, new, success, Ordering::Relaxed).is_ok()
    }

    #[inline]
    fn set_bits(&self, bits: u8) -> u8 {
        self.fetch_or(bits, Ordering::Relaxed)
    }

    #[inline]
    fn load(&self, order: Ordering) -> u8 {
        Self::load(self, order)
    }

    #[inline]
    fn store(&self, value: u8, order: Ordering) {
        Self::store(self, value, order);
    }

    #[inline]
    fn wait(&self) {
        core::hint::spin_loop();
    }
}

const OPEN: u8 = 0;
const HELD: u8 = 1;
/// Set beside either of them while a CPU has reserved the next turn.
const RESERVED: u8 = 2;

/// Mutual exclusion by spinning, with bounded waiting.
///
/// Any CPU that finds it open takes it, unless the turn is reserved. A CPU that waits counts the
/// turns of others. After [`StateByte::PATIENCE`] of them it reserves the next turn, as soon as no
/// other CPU has. From then on no other CPU takes the lock before it.
///
/// A CPU that has had its turn must be passed over anew before it reserves another. So each other
/// CPU that is out of patience goes first at most once, and the wait is bounded by `PATIENCE` turns
/// and one of each other CPU.
///
/// It is not a ticket lock, which would bound the wait by one turn of each other CPU. Under a
/// hypervisor with more virtual CPUs than the machine has CPUs (QEMU on a laptop), the next CPU in
/// a queue is often not running, and a queue moves on at the pace of the host's scheduler. Figures:
/// `docs/adr/0023-one-lock-with-bounded-waiting.md`.
#[derive(Debug)]
pub struct SpinLock<T, B = AtomicU8> {
    state: B,
    /// How often the lock was taken, modulo 256; its holder counts. A waiting CPU reads it more
    /// often than once in 256 turns, unless a hypervisor below preempts it: then it waits longer.
    turns: B,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives access to one holder at a time, so sharing it needs only that the value
// may move between CPUs.
unsafe impl<T: Send, B: Sync> Sync for SpinLock<T, B> {}

impl<T> SpinLock<T> {
    /// An open lock around `value`.
    pub const fn new(value: T) -> Self {
        Self::with(AtomicU8::new(OPEN), AtomicU8::new(0), value)
    }
}

impl<T, B> SpinLock<T, B> {
    /// A lock around `value` with the bytes of its state and of its turns, which must be 0.
    pub const fn with(state: B, turns: B, value: T) -> Self {
        Self { state, turns, value: UnsafeCell::new(value) }
    }
}

impl<T, B: StateByte> SpinLock<T, B> {
    /// Waits for this CPU's turn and takes the lock. Holders do bounded work.
    pub fn lock(&self) -> SpinGuard<'_, T, B> {
        match self.try_lock() {
            Some(guard) => guard,
            None => self.wait_for_turn(),
        }
    }

    /// Waits for this CPU's turn. It is a separate function so that measurements of an exit can
    /// leave its instructions out by their addresses.
    #[inline(never)]
    fn wait_for_turn(&self) -> SpinGuard<'_, T, B> {
        let first = self.turns.load(Ordering::Relaxed);
        let mut from = OPEN;
        loop {
            let others = self.turns.load(Ordering::Relaxed).wrapping_sub(first);
            if from == OPEN && others >= B::PATIENCE && self.reserve() {
                from = RESERVED;
            }
            // A load first, so that the cache line stays shared until the holder releases the lock.
            if self.state.load(Ordering::Relaxed) == from
                && let Some(guard) = self.take(from)
            {
                return guard;
            }
            self.state.wait();
        }
    }

    /// Reserves the next turn, unless another CPU has.
    fn reserve(&self) -> bool {
        self.state.load(Ordering::Relaxed) & RESERVED == 0
            && self.state.set_bits(RESERVED) & RESERVED == 0
    }

    /// Takes the lock if its state is `from`.
    fn take(&self, from: u8) -> Option<SpinGuard<'_, T, B>> {
        // Acquire, to see what the last holder wrote.
        let is_taken = self.state.exchange(from, HELD, Ordering::Acquire);
        // Not `then_some`: an unused guard opens the lock when it is dropped.
        is_taken.then(|| {
            let turns = self.turns.load(Ordering::Relaxed);
            self.turns.store(turns.wrapping_add(1), Ordering::Relaxed);
            SpinGuard { lock: self }
        })
    }

    /// Returns the guard of a lock that [`SpinGuard::park`] left closed.
    ///
    /// # Panics
    ///
    /// Panics if `parked` belongs to another lock.
    pub fn resume(&'static self, parked: Parked) -> SpinGuard<'static, T, B> {
        // A static lock does not move, so its address identifies the lock that was parked, whose
        // guard is gone.
        assert!(parked.state == self.state_address(), "a parked lock is resumed as itself");
        SpinGuard { lock: self }
    }

    /// An address that identifies the lock.
    fn state_address(&self) -> usize {
        const { assert!(size_of::<B>() != 0, "a state has an address of its own") };
        (&raw const self.state).addr()
    }

    /// Takes the lock if it is open and its next turn is not reserved.
    pub fn try_lock(&self) -> Option<SpinGuard<'_, T, B>> {
        self.take(OPEN)
    }

    /// Tries to take the lock `attempts` times, for a panic, which must print even if the holder
    /// never releases it.
    pub fn lock_within(&self, attempts: usize) -> Option<SpinGuard<'_, T, B>> {
        (0..attempts).find_map(|_| {
            self.state.wait();
            self.try_lock()
        })
    }
}

/// A lock that is held without a guard, to be resumed once.
#[derive(Debug)]
#[must_use = "the lock stays closed for ever without it"]
pub struct Parked {
    /// The address of the lock's state.
    state: usize,
}

impl<T, B: StateByte> SpinGuard<'static, T, B> {
    /// Leaves the lock closed, for [`SpinLock::resume`].
    pub fn park(self) -> Parked {
        let state = self.lock.state_address();
        core::mem::forget(self);
        Parked { state }
    }
}

/// Opens the lock when dropped.
#[derive(Debug)]
pub struct SpinGuard<'a, T, B: StateByte = AtomicU8> {
    lock: &'a SpinLock<T, B>,
}

impl<T, B: StateByte> Deref for SpinGuard<'_, T, B> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: this guard is the only one, since `take` closed the lock for it.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T, B: StateByte> DerefMut for SpinGuard<'_, T, B> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`, and `&mut self` makes this the guard's only borrow.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T, B: StateByte> Drop for SpinGuard<'_, T, B> {
    fn drop(&mut self) {
        if !self.lock.state.exchange(HELD, OPEN, Ordering::Release) {
            // A CPU has reserved the next turn. No other CPU changes the state now.
            self.lock.state.store(RESERVED, Ordering::Release);
        }
    }
}

const EMPTY: u8 = 0;
const WRITING: u8 = 1;
const READY: u8 = 2;

/// A value that is written once, at boot, and read by every CPU afterwards.
#[derive(Debug)]
pub struct Once<T, B = AtomicU8> {
    state: B,
    value: UnsafeCell<Option<T>>,
}

// SAFETY: written before `READY` is released, only shared references after it is acquired.
unsafe impl<T: Send + Sync, B: Sync> Sync for Once<T, B> {}

impl<T> Once<T> {
    /// An empty cell.
    pub const fn new() -> Self {
        Self::with(AtomicU8::new(EMPTY))
    }
}

impl<T, B> Once<T, B> {
    /// An empty cell whose state is in `state`, which must be 0 (empty).
    pub const fn with(state: B) -> Self {
        Self { state, value: UnsafeCell::new(None) }
    }
}

impl<T, B: StateByte> Once<T, B> {
    /// Writes the value. A second writer changes nothing.
    pub fn set(&self, value: T) {
        if self.state.exchange(EMPTY, WRITING, Ordering::Relaxed) {
            // SAFETY: only one caller moves the state from EMPTY, and nothing reads before READY.
            unsafe { *self.value.get() = Some(value) };
            self.state.store(READY, Ordering::Release);
        }
    }

    /// The value, if it has been written.
    pub fn get(&self) -> Option<&T> {
        if self.state.load(Ordering::Acquire) != READY {
            return None;
        }
        // SAFETY: READY means written, and nothing writes again.
        unsafe { (*self.value.get()).as_ref() }
    }
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::thread;

    use super::*;

    #[test]
    fn a_parked_lock_is_closed_until_it_is_resumed() {
        static LOCK: SpinLock<u32> = SpinLock::new(1);
        let parked = LOCK.lock().park();
        assert!(LOCK.try_lock().is_none());
        drop(LOCK.resume(parked));
        assert!(LOCK.try_lock().is_some());
    }

    #[test]
    #[should_panic(expected = "a parked lock is resumed as itself")]
    fn a_parked_lock_opens_no_other() {
        static PARKED: SpinLock<u32> = SpinLock::new(1);
        static OTHER: SpinLock<u32> = SpinLock::new(1);
        drop(OTHER.resume(PARKED.lock().park()));
    }

    #[test]
    fn a_failed_try_leaves_the_lock_closed() {
        let lock = SpinLock::new(());
        let guard = lock.lock();
        assert!(lock.try_lock().is_none());
        assert!(lock.try_lock().is_none(), "the first failure must not have opened it");
        assert!(lock.lock_within(10).is_none());
        drop(guard);
        assert!(lock.try_lock().is_some());
    }

    /// A byte for a CPU that always loses the race: whenever it waits, another CPU ends its turn
    /// and begins the next one, if the lock lets it.
    struct Loser(AtomicU8);

    static CONTENDED: SpinLock<(), Loser> =
        SpinLock::with(Loser(AtomicU8::new(0)), Loser(AtomicU8::new(0)), ());

    thread_local! {
        static WINNER: RefCell<(Option<SpinGuard<'static, (), Loser>>, u32)> =
            const { RefCell::new((None, 0)) };
    }

    // SAFETY: each access is the atomic's; `wait` accesses nothing of the byte's but by `try_lock`.
    unsafe impl StateByte for Loser {
        fn exchange(&self, current: u8, new: u8, success: Ordering) -> bool {
            self.0.exchange(current, new, success)
        }

        fn set_bits(&self, bits: u8) -> u8 {
            self.0.set_bits(bits)
        }

        fn load(&self, order: Ordering) -> u8 {
            self.0.load(order)
        }

        fn store(&self, value: u8, order: Ordering) {
            self.0.store(value, order);
        }

        fn wait(&self) {
            WINNER.with_borrow_mut(|(guard, turns)| {
                drop(guard.take());
                *guard = CONTENDED.try_lock();
                *turns += u32::from(guard.is_some());
                assert!(*turns < 1000, "a CPU that waits is passed over without end");
            });
        }
    }

    #[test]
    fn a_cpu_is_passed_over_for_as_long_as_it_has_patience() {
        WINNER.set((CONTENDED.try_lock(), 0));
        let guard = CONTENDED.lock();
        let turns = WINNER.with_borrow(|(_, turns)| *turns);
        assert_eq!(turns, u32::from(Loser::PATIENCE));
        assert!(CONTENDED.try_lock().is_none());
        drop(guard);
        assert!(CONTENDED.try_lock().is_some(), "the reservation has ended with its turn");
    }

    #[test]
    fn a_reserved_turn_goes_to_the_cpu_that_reserved_it() {
        let lock = SpinLock::new(());
        let guard = lock.lock();
        assert!(lock.reserve());
        assert!(!lock.reserve(), "two CPUs have the same turn");
        drop(guard);
        assert!(lock.try_lock().is_none());
        assert!(lock.lock_within(10).is_none(), "a panic goes ahead without the lock");
        drop(lock.take(RESERVED).expect("the turn of the CPU that has reserved it"));
        assert!(lock.try_lock().is_some());
    }

    #[test]
    fn no_increment_is_lost_between_threads() {
        let lock = SpinLock::new(0_u64);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for turn in 0..5_000 {
                        let mut guard = loop {
                            // Both ways in, and failures on the way.
                            match if turn % 2 == 0 { lock.try_lock() } else { Some(lock.lock()) } {
                                Some(guard) => break guard,
                                None => thread::yield_now(),
                            }
                        };
                        let before = *guard;
                        thread::yield_now();
                        *guard = before + 1;
                    }
                });
            }
        });
        assert_eq!(*lock.lock(), 20_000);
    }

    #[test]
    fn a_cell_keeps_the_first_value() {
        let cell = Once::new();
        assert!(cell.get().is_none());
        cell.set(1);
        cell.set(2);
        assert_eq!(cell.get(), Some(&1));
    }
}
