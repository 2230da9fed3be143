//! Random instructions at EL1 and EL0, on four CPUs, on pages that have copies, while the words and
//! the mappings change.
//!
//! Each CPU has an arena of pages twice: once plain, once with copies of some pages for a device.
//! It executes random words on both, one after the other, at the same virtual address: registers,
//! exception and in the end every byte must agree. In between it executes words that other CPUs
//! replace at any moment; after those, only the CPU's level, address and interrupt masks are
//! checked. Everything follows from a seed, except the order in which CPUs run.

mod run;
mod tables;
mod words;

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use oche_guest_common::exception::attempt;
use oche_guest_common::mmio::write32;
use oche_guest_common::{Random, print, smccc};

use super::access;
use super::board::{DART, DART_BYTES};
use super::cpus::with_helpers;
use super::edu::STREAM;
use super::mapping::{self, Rights};
use super::storm::register_value;

use run::{Level, Saved};
use tables::{Arena, CODE, COPIED, CPUS};

/// Operations after which the arenas are compared; every other such round is one in which words are
/// replaced.
const ROUND: u64 = 512;
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
static FAILED: AtomicBool = AtomicBool::new(false);

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
    let result = with_helpers(work, || {
        work(0);
        Ok(())
    });
    let is_good = result.is_ok() && !FAILED.load(Ordering::SeqCst);
    print(format_args!(
        "guest: random: seed {seed}: {operations} operations, {} compared, {} completed, {}\n",
        COMPARED.load(Ordering::SeqCst),
        COMPLETED.load(Ordering::SeqCst),
        if is_good { "ok" } else { "FAILED" },
    ));
    smccc::power_off()
}

/// Maps a page at both of its IOVAs with `rights`, or unmaps it.
fn map(cpu: usize, page: usize, rights: Option<Rights>) {
    let address = tables::copied(cpu, page);
    for iova in iovas(cpu, page) {
        mapping::set(STREAM, iova, rights.map(|rights| (address, rights)));
    }
}

/// Two IOVA pages in different slots.
fn iovas(cpu: usize, page: usize) -> [usize; 2] {
    let first = 0x100 + cpu * 64 + (page - COPIED[0]) * 8;
    [first, first + 5]
}

/// Each CPU's part.
fn work(number: u64) {
    let cpu = number as usize;
    let mut random = Random(SEED.load(Ordering::SeqCst).wrapping_mul(4).wrapping_add(number));
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
            // A store-exclusive may fail spuriously, but not for ever.
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
        replace_word(self.cpu, random);
        self.arena.enter(true);
        let end = run::run(&CODE, slot, level, &Saved::new(random, level));
        run::reset_debug_state();
        self.completed += u64::from(end.is_complete());
        if let Some(what) = end.misplacement(level) {
            self.fail(what, &[run::word(&CODE, slot)], level);
            print(format_args!("guest: random: {:x?}\n", end.summary()));
        }
    }

    /// Disturbs other CPUs and the DARTs.
    fn disturb(&mut self, random: &mut Random) {
        let choice = random.next();
        (0..4).for_each(|index| replace_word((choice >> (2 * index)) as usize % CPUS, random));
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

    /// Compares the arenas after a round of exact operations; makes them equal after any other.
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

/// Replaces the word that `cpu` executes in its second page, or is about to.
fn replace_word(cpu: usize, random: &mut Random) {
    run::set_word(&CODE, (cpu * 2 + 1) * 512, words::hostile(random));
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
    let address = DART + DART_BYTES + offset;
    attempt(|| match choice >> 24 & 7 {
        0 | 1 => {
            let (_, access) = access::ACCESSES[(choice >> 32) as usize % access::ACCESSES.len()];
            access(address);
        }
        2 | 3 => access::load_word(address),
        _ => write32(address, register_value(value) as u32),
    });
}
