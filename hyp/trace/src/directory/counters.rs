//! The counters of the directory: their names and their blocks.

use core::ops::Range;

use crate::directory::layout::{
    BLOCK_BYTES, BLOCK_COUNTERS, BLOCKS, FILTERED_WORD, Layout, MAX_COUNTERS, NAME_ENTRY_BYTES,
    NAMES, NO_SNAPSHOT_WORD, header,
};
use crate::statistics::{Exit, NAME_BYTES, Statistics};
use crate::words::{Text, Words, halves};

/// Whose a counter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Scope {
    Global = 0,
    Cpu = 1,
}

impl Scope {
    pub(super) const ALL: [Self; 2] = [Self::Global, Self::Cpu];

    pub(super) fn names(self) -> &'static [&'static str] {
        match self {
            Self::Global => Statistics::NAMES,
            Self::Cpu => Exit::NAMES,
        }
    }
}

/// A counter with its value now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Its name.
    pub name: Text<NAME_BYTES>,
    /// The CPU whose it is, or `None` for the whole machine's.
    pub cpu: Option<usize>,
    /// Its value.
    pub value: u64,
}

/// Counters of each CPU that stand beside its head, by name and word.
const BESIDE_HEADS: [(&str, usize); 2] =
    [("events_left_out", FILTERED_WORD), ("snapshots_left_out", NO_SNAPSHOT_WORD)];

/// The largest number of counters that [`counters`] gives of a directory of `cpus` CPUs, whatever
/// stands in it.
pub const fn max_counters(cpus: usize) -> usize {
    (MAX_COUNTERS + BESIDE_HEADS.len()) * cpus
}

/// All counters of a directory, a counter of each CPU by itself. Names are read from the directory,
/// so a newer hypervisor's counters show as well.
pub fn counters(words: &impl Words, layout: Layout) -> impl Iterator<Item = Counter> {
    let (count, _) = halves(words.load(header::COUNTERS / 8));
    let entries = (0..MAX_COUNTERS.min(count as usize)).map(|index| {
        let word = (NAMES + index * NAME_ENTRY_BYTES) / 8;
        let (scope, place) = halves(words.load(word + NAME_BYTES / 8));
        (Text::load(words, word), scope, place as usize)
    });
    let sound =
        entries.filter(|(_, scope, place)| *scope <= Scope::Cpu as u32 && *place < BLOCK_COUNTERS);
    let left_out = BESIDE_HEADS.into_iter().flat_map(move |(name, word)| {
        (0..layout.cpus).map(move |cpu| Counter {
            name: Text::new(name),
            cpu: Some(cpu),
            value: words.load(layout.head_word(cpu) + word),
        })
    });
    let named = sound.flat_map(move |(name, scope, place)| {
        let is_global = scope == Scope::Global as u32;
        (0..if is_global { 1 } else { layout.cpus }).map(move |cpu| {
            let (block, cpu) = if is_global { (0, None) } else { (1 + cpu, Some(cpu)) };
            Counter { name, cpu, value: words.load(block_word(block) + place) }
        })
    });
    named.chain(left_out)
}

/// The words of the engine's counters, in the order of [`Statistics::NAMES`], for
/// [`LiveStatistics`](crate::statistics::LiveStatistics).
pub const ENGINE_COUNTERS: Range<usize> = block_word(0)..block_word(0) + Statistics::NAMES.len();

/// Stores all of the engine's counters at once, in the directory of a test.
pub fn store_statistics(words: &impl Words, statistics: &Statistics) {
    for (word, value) in ENGINE_COUNTERS.zip(statistics.values()) {
        words.store(word, value);
    }
}

/// The words of the counters of `cpu`, in the order of [`Exit::NAMES`]; `None` where the layout has
/// no such CPU. No other CPU writes them, so counting takes no lock and no atomic addition.
pub fn cpu_counters(layout: Layout, cpu: usize) -> Option<Range<usize>> {
    let first = block_word(1 + cpu);
    (cpu < layout.cpus).then_some(first..first + Exit::NAMES.len())
}

const fn block_word(block: usize) -> usize {
    (BLOCKS + block * BLOCK_BYTES) / 8
}
