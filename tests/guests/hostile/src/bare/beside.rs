//! What accesses to DART 0 cost while DART 1 has work left that another CPU asked for, and while
//! other CPUs use it: none does that work.

use core::hint::black_box;
use core::sync::atomic::{AtomicU32, Ordering};

use oche_guest_common::mmio::{read32, write32};
use oche_guest_common::{Check, Pages, check, print};

use super::board::{DART, DART_BYTES};
use super::counter::{least_of, sum_of};
use super::cpus::{is_over, with_helpers, yield_cpu};
use super::edu::STREAM;
use super::mapping::{self, COMMAND, INVALIDATE, Rights, SELECT, leaf};

/// The DART of the other CPUs, its stream, and registers of it: enables, TCR and TTBR 0.
const OTHER: u64 = DART + DART_BYTES;
const OTHER_STREAM: u64 = 1;
const ENABLE: u64 = 0xfc;
const TCR: u64 = 0x100 + 4 * OTHER_STREAM;
const TTBR: u64 = 0x200 + 16 * OTHER_STREAM;
const BUSY: u32 = 1 << 2;
/// Leaf tables of DART 1 that map nothing until work is to be left.
const TABLES: usize = 24;
const WORDS: usize = 512;
/// Memory that this guest does not use, as much as these tables map.
const MEMORY: u64 = 0x5000_0000;
/// An IOVA page of both DARTs.
const IOVA: usize = 0x21;
const TURNS: u32 = 64;

static PAGE: Pages<1> = Pages::new();
static FIRST: Pages<1> = Pages::new();
static LEAVES: Pages<TABLES> = Pages::new();
/// How often other CPUs have flushed DART 1 and polled it.
static USES: AtomicU32 = AtomicU32::new(0);

/// An access to DART 0, or several.
type Exit = fn();

const EXITS: [(&str, Exit); 3] = [
    ("load", || _ = black_box(read32(DART + SELECT))),
    ("busy", || _ = black_box(mapping::is_busy())),
    ("map", || {
        mapping::set(STREAM, IOVA, Some((PAGE.address(), Rights::ReadWrite)));
        mapping::set(STREAM, IOVA, None);
    }),
];

/// Measures. Stream [`STREAM`] of DART 0 translates.
pub(super) fn run() {
    if let Err(error) = measure() {
        print(format_args!("guest: beside: {error}\n"));
    }
}

fn measure() -> Check {
    with_helpers(attach_other, || Ok(()))?;
    check(!is_other_busy(), "DART 1 is busy with empty tables")?;
    // The first turns find tables that have not been idle yet.
    EXITS.iter().for_each(|(_, exit)| _ = sum_of(TURNS, exit));
    for (name, exit) in EXITS {
        report("alone", name, sum_of(TURNS, exit), TURNS);
    }
    with_helpers(leave_work, || Ok(()))?;
    for (name, exit) in EXITS {
        report("left", name, sum_of(TURNS, exit), TURNS);
    }
    // After the measurement, so they are of work that was left all the time.
    report("left", "polls", polls_of_other(), 1);
    with_helpers(use_other, || {
        // No map: it invalidates TLBs under the engine's lock. QEMU then goes on with the next CPU,
        // which waits for the lock as long as QEMU lets it run: minutes in all.
        for (name, exit) in &EXITS[..2] {
            let before = USES.load(Ordering::SeqCst);
            report("used", name, least_of(TURNS, yield_cpu, exit), 1);
            let uses = USES.load(Ordering::SeqCst).wrapping_sub(before);
            check(uses >= TURNS, "the other CPUs did not use DART 1")?;
        }
        Ok(())
    })
}

fn report(when: &str, name: &str, taken: u32, turns: u32) {
    print(format_args!("guest: measured: {when}-{name} {taken} per {turns}\n"));
}

/// Has CPU 1 attach the stream of DART 1 to tables that map nothing.
fn attach_other(cpu: u64) {
    if cpu == 1 {
        (0..TABLES).for_each(|table| {
            FIRST.set_word(table, (LEAVES.address() + 4096 * table as u64) | 1);
        });
        write32(OTHER + ENABLE, 0xffff);
        write32(OTHER + TTBR, 1 << 31 | (FIRST.address() >> 12) as u32);
        write32(OTHER + TCR, 1 << 7);
        flush_other();
    }
}

/// Has CPU 1 begin more work on DART 1 than several accesses may do, and leave it.
fn leave_work(cpu: u64) {
    if cpu == 1 {
        for word in 0..TABLES * WORDS {
            LEAVES.set_word(word, leaf(MEMORY + 4096 * word as u64, Rights::ReadWrite));
        }
        start_other();
    }
}

/// Flushes DART 1 again and again, and polls it. Nothing changes.
fn use_other(_: u64) {
    while !is_over() {
        flush_other();
        USES.fetch_add(1, Ordering::SeqCst);
        yield_cpu();
    }
}

fn start_other() {
    write32(OTHER + SELECT, 1 << OTHER_STREAM);
    write32(OTHER + COMMAND, INVALIDATE);
}

fn flush_other() {
    start_other();
    polls_of_other();
}

/// Polls DART 1 until it is idle. Returns how often it was busy.
fn polls_of_other() -> u32 {
    let mut polls = 0;
    while is_other_busy() {
        polls += 1;
    }
    polls
}

fn is_other_busy() -> bool {
    read32(OTHER + COMMAND) & BUSY != 0
}
