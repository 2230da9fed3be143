//! Random instructions at EL1 and EL0, on four CPUs, on pages that have copies, while the words and
//! the mappings change.
//!
//! Each CPU has an arena of pages twice: once plain, once with copies of some pages for a device.
//! It executes random words on both, one after the other, at the same virtual address: registers,
//! exception and in the end every byte must agree. In between it executes words that other CPUs
//! replace at any moment, of which only is asked that the CPU comes back where it must. All of it
//! follows from a seed, but for the order in which CPUs come.

mod run;
mod tables;
mod words;

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::access::{self, DART};
use super::edu::STREAM;
use super::exception::attempt;
use super::firmware;
use super::mapping::{self, Rights};
use super::print;
use super::storm::Random;
use super::{Pages, calls};

use run::{Level, Saved};
use tables::Arena;

pub(super) const CPUS: usize = 4;
/// Operations after which the arenas are compared; every other such round is one in which words are
/// replaced.
const ROUND: u64 = 512;
/// Pages of an arena that have copies.
const COPIED: [usize; 4] = [5, 6, 8, 9];
/// Of 32 operations, one goes to a DART's register as well; of 128 of the first CPU's, one changes
/// a mapping.
const REGISTER_EVERY: u64 = 32;
const MAPPING_EVERY: u64 = 128;

/// Attempts of a pair of exclusives after the first.
const MAX_ATTEMPTS: u32 = 8;

static SEED: AtomicU64 = AtomicU64::new(0);
static OPERATIONS: AtomicU64 = AtomicU64::new(0);
static COMPARED: AtomicU64 = AtomicU64::new(0);
static COMPLETED: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicU32 = AtomicU32::new(0);
static FAILED: AtomicBool = AtomicBool::new(false);
/// For each CPU, a page of code that is its own, and one in which the others replace words.
static CODE: Pages<{ 2 * CPUS }> = Pages::new();

/// Runs `operations` operations on all CPUs together.
pub(super) fn run(seed: u64, operations: u64) -> ! {
    SEED.store(seed, Ordering::SeqCst);
    OPERATIONS.store(operations / CPUS as u64, Ordering::SeqCst);
    mapping::begin(STREAM);
    (0..CPUS)
        .for_each(|cpu| COPIED.iter().for_each(|page| map(cpu, *page, Some(Rights::ReadWrite))));
    for slot in 0..CODE.words() / run::SLOT_WORDS {
        run::set_slot(&CODE, slot * run::SLOT_WORDS, &[run::END; 3]);
    }
    calls::TASK.store(calls::RANDOM, Ordering::SeqCst);
    let started = (1..CPUS as u64).filter(|cpu| calls::start(*cpu).is_ok()).count();
    work(0);
    let ended = (1..CPUS as u64).all(|cpu| calls::wait_until_off(cpu).is_ok());
    let is_good = started + 1 == CPUS
        && ended
        && DONE.load(Ordering::SeqCst) as usize == CPUS
        && !FAILED.load(Ordering::SeqCst);
    print(format_args!(
        "guest: random: seed {seed}: {operations} operations, {} compared, {} completed, {}\n",
        COMPARED.load(Ordering::SeqCst),
        COMPLETED.load(Ordering::SeqCst),
        if is_good { "ok" } else { "FAILED" },
    ));
    firmware::power_off()
}

/// Another CPU's part.
pub(super) fn join(number: u64) {
    work(number as usize);
}

/// Gives both IOVAs of a page `rights`.
fn map(cpu: usize, page: usize, rights: Option<Rights>) {
    let address = tables::copied(cpu, page);
    for iova in iovas(cpu, page) {
        mapping::set(STREAM, iova, rights.map(|rights| (address, rights)));
    }
}

/// They do not agree in their slot of a granule.
fn iovas(cpu: usize, page: usize) -> [usize; 2] {
    let first = 0x100 + cpu * 64 + (page - COPIED[0]) * 8;
    [first, first + 5]
}

fn work(cpu: usize) {
    let mut random = Random(SEED.load(Ordering::SeqCst).wrapping_mul(4).wrapping_add(cpu as u64));
    let mut worker = Worker { cpu, arena: Arena::new(cpu), compared: 0, completed: 0, failures: 0 };
    worker.arena.fill(&mut random);
    let operations = OPERATIONS.load(Ordering::SeqCst);
    for operation in 0..operations {
        if cpu == 0 && operation % (operations / 10).max(1) == 0 {
            print(format_args!("guest: random: {} % done\n", operation * 100 / operations));
        }
        let is_exact = (operation / ROUND).is_multiple_of(2);
        if is_exact {
            worker.exact(&mut random)
        } else {
            worker.replaced(&mut random)
        }
        worker.disturb(&mut random);
        if (operation + 1).is_multiple_of(ROUND) || operation + 1 == operations {
            worker.end_round(operation, is_exact);
        }
        if worker.failures > 8 {
            break;
        }
    }
    COMPARED.fetch_add(worker.compared, Ordering::SeqCst);
    COMPLETED.fetch_add(worker.completed, Ordering::SeqCst);
    DONE.fetch_add(1, Ordering::SeqCst);
}

struct Worker {
    cpu: usize,
    arena: Arena,
    compared: u64,
    completed: u64,
    failures: u32,
}

impl Worker {
    fn fail(&mut self, what: &str, words: &[u32], level: Level) {
        self.failures += 1;
        FAILED.store(true, Ordering::SeqCst);
        print(format_args!(
            "guest: random: cpu {}, {words:08x?} at {level:?} FAILED: {what}\n",
            self.cpu
        ));
    }

    /// The same words on the plain arena and on the one with copies.
    fn exact(&mut self, random: &mut Random) {
        let level = Level::choose(random);
        let words = words::program(random, level);
        let start = Saved::new(random, level);
        let slot = self.cpu * 2 * 512;
        run::set_slot(&CODE, slot, &words);
        let [plain, copied] = [false, true].map(|has_copies| {
            self.arena.enter(has_copies);
            let mut end = run::run(&CODE, slot, level, &start);
            // A store-exclusive may fail for no reason. It must not for ever.
            for _ in 0..MAX_ATTEMPTS {
                if words::is_exclusive(&words) && end.is_complete() && end.has_failed_to_store() {
                    end = run::run(&CODE, slot, level, &start);
                }
            }
            end
        });
        self.compared += 1;
        self.completed += u64::from(copied.is_complete());
        if let Some(what) = plain.difference(&copied) {
            self.fail(what, &words, level);
            print(format_args!("guest: random: plain {:x?}\n", plain.summary()));
            print(format_args!("guest: random: copied {:x?}\n", copied.summary()));
        }
    }

    /// Words that other CPUs replace while they are executed, on the arena with copies.
    fn replaced(&mut self, random: &mut Random) {
        let level = Level::choose(random);
        let slot = (self.cpu * 2 + 1) * 512;
        CODE_WORD.replace(self.cpu, random);
        self.arena.enter(true);
        let end = run::run(&CODE, slot, level, &Saved::new(random, level));
        run::reset_debug_state();
        self.completed += u64::from(end.is_complete());
        if let Some(what) = end.is_out_of_place(level) {
            self.fail(what, &[run::word(&CODE, slot)], level);
            print(format_args!("guest: random: {:x?}\n", end.summary()));
        }
    }

    /// What other CPUs and the DARTs feel of this one.
    fn disturb(&mut self, random: &mut Random) {
        let choice = random.next();
        (0..4).for_each(|index| CODE_WORD.replace((choice >> (2 * index)) as usize % CPUS, random));
        if choice >> 16 & (REGISTER_EVERY - 1) == 0 {
            wild_register(random);
        }
        if self.cpu == 0 && choice >> 32 & (MAPPING_EVERY - 1) == 0 {
            let (cpu, page) =
                (random.next() as usize % CPUS, COPIED[random.next() as usize % COPIED.len()]);
            // What a device may write traps every access.
            let rights = match random.next() % 8 {
                0 => None,
                1 | 2 => Some(Rights::Read),
                _ => Some(Rights::ReadWrite),
            };
            map(cpu, page, rights);
        }
    }

    /// Compares the arenas after a round of exact operations, and makes them equal after another.
    fn end_round(&mut self, operation: u64, is_exact: bool) {
        if !is_exact {
            return self.arena.make_equal();
        }
        let Some(offset) = self.arena.difference() else { return };
        self.failures += 1;
        FAILED.store(true, Ordering::SeqCst);
        print(format_args!(
            "guest: random: cpu {}, by operation {operation} byte {offset:#x} FAILED: bytes differ\n",
            self.cpu
        ));
        self.arena.make_equal();
    }
}

/// The word of each CPU's second page that is replaced.
struct CodeWord;

static CODE_WORD: CodeWord = CodeWord;

impl CodeWord {
    /// Replaces the word that `cpu` executes, or is about to.
    fn replace(&self, cpu: usize, random: &mut Random) {
        run::set_word(&CODE, (cpu * 2 + 1) * 512, words::hostile(random));
    }
}

/// A load or store of any width at any offset of DART 1, any value.
fn wild_register(random: &mut Random) {
    let (choice, value) = (random.next(), random.next());
    let offset = match choice & 7 {
        0 => 0x20,
        1 => 0x34,
        2 => 0x100 + (choice >> 8 & 15) * 4,
        3 => 0x200 + (choice >> 8 & 63) * 4,
        4 => choice >> 8 & 0x7ffc,
        5 => choice >> 8 & 0x3fff,
        _ => choice >> 8 & 0x2fc,
    };
    let address = DART + 0x4000 + offset;
    // Valid, and a table in the first GiB of RAM; or anything.
    let value = if value >> 63 == 0 { 1 << 31 | 0x4_0000 | value & 0x3_ffff } else { value };
    attempt(|| match choice >> 24 & 7 {
        0 | 1 => {
            let (_, access) = access::ACCESSES[(choice >> 32) as usize % access::ACCESSES.len()];
            access(address);
        }
        2 | 3 => access::load_word(address),
        _ => {
            // SAFETY: a register of a DART, or an abort that the vectors step over.
            unsafe { (address as *mut u32).write_volatile(value as u32) };
        }
    });
}
