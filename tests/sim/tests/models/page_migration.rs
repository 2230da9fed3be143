//! A page that moves while other CPUs use it.

use super::*;

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

// SAFETY: no CPU uses its tables but the model's.
unsafe impl Hardware for Cpu {
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
            Lookup::Broken => None,
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
    stage2.flush_tlb();
    cpu.0.away.store(cpu.0.home.load(Ordering::Relaxed), Ordering::Relaxed);
    stage2.remap_page(PAGE_IN_MOTION, NEW_PLACE, CpuAccess::ReadWrite);
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
            stage2.flush_tlb();
            copy += 1;
            cpu.place(at).0.store(copy, Ordering::Relaxed);
            stage2.remap_page(PAGE_IN_MOTION, at, CpuAccess::ReadWrite);
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
