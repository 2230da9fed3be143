//! What tables and registers held at any moment since a stream's last flush.
//!
//! Between a change and the flush a DART may act on the old state or the new one. So each stored word keeps
//! its earlier values with the time at which they went, and a walk follows every value that still counts.

use crate::reference::memory::GuestMemory;
use crate::reference::registers::{Dart, STREAMS};
use crate::reference::walk::{Leaf, code, decode_leaf, decode_root, decode_table, selectors};
use oche_hyp::addr::Gfn;
use std::collections::BTreeMap;

/// The four TTBRs of a stream that translates, invalid ones as zero: what names a set of tables.
pub type Roots = [u32; 4];

/// One way in which an access can end on a 4K DART.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The IOVA is mapped.
    Page(Leaf),
    /// It faults with one of these codes.
    Nothing(u16),
}

/// Any code at all.
pub const ANY_CODE: u16 = u16::MAX;

#[derive(Clone, Debug, Default)]
struct StreamHistory {
    /// When the last flush that named the stream began.
    flushed: u64,
    /// What the registers held before a change, with the time of the change.
    before: Vec<(u64, Option<Roots>)>,
}

/// Guest memory, registers, and their past.
#[derive(Clone, Debug)]
pub struct History {
    /// Memory as it is now.
    pub memory: GuestMemory,
    /// DARTs as they are now.
    pub darts: Vec<Dart>,
    now: u64,
    words: BTreeMap<(Gfn, u16), Vec<(u64, u64)>>,
    remembered: usize,
    streams: Vec<StreamHistory>,
}

impl History {
    /// Nothing has happened.
    pub fn new(memory: GuestMemory, darts: usize) -> Self {
        Self {
            memory,
            darts: vec![Dart::default(); darts],
            now: 1,
            words: BTreeMap::new(),
            remembered: 0,
            streams: vec![StreamHistory::default(); darts * STREAMS],
        }
    }

    /// The time now; it grows with every change.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Stores bytes. Returns the words that changed: number, old value, new value.
    pub fn store(&mut self, page: Gfn, offset: usize, bytes: &[u8]) -> Vec<(u16, u64, u64)> {
        self.now += 1;
        let words = offset / 8..(offset + bytes.len()).div_ceil(8);
        let before: Vec<_> = words.clone().filter_map(|word| self.memory.word(page, word)).collect();
        if let Some(memory) = self.memory.page_mut(page) {
            memory[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        let mut changed = Vec::new();
        for (word, old) in words.zip(before) {
            let new = self.memory.word(page, word).unwrap_or(0);
            if new != old {
                self.words.entry((page, word as u16)).or_default().push((self.now, old));
                self.remembered += 1;
                changed.push((word as u16, old, new));
            }
        }
        changed
    }

    /// Writes a register of DART `dart`.
    pub fn write_register(&mut self, dart: usize, offset: u64, value: u32) {
        self.now += 1;
        let before: Vec<_> = (0..STREAMS).map(|stream| self.roots(dart, stream)).collect();
        self.darts[dart].write(offset, value);
        for (stream, before) in before.into_iter().enumerate() {
            if self.roots(dart, stream) != before {
                self.streams[dart * STREAMS + stream].before.push((self.now, before));
            }
        }
    }

    /// The tables of a stream now, or `None` where every access faults.
    pub fn roots(&self, dart: usize, stream: usize) -> Option<Roots> {
        let registers = &self.darts[dart];
        if !registers.translates(stream) || registers.enabled >> stream & 1 == 0 {
            return None;
        }
        let valid = |ttbr: u32| if decode_root(ttbr).is_some() { ttbr } else { 0 };
        Some(registers.ttbr[stream].map(valid))
    }

    /// Every set of tables that the stream may be using, the present one first.
    pub fn possible_roots(&self, dart: usize, stream: usize) -> Vec<Option<Roots>> {
        let history = &self.streams[dart * STREAMS + stream];
        let mut all = vec![self.roots(dart, stream)];
        for &(gone, roots) in &history.before {
            if gone > history.flushed && !all.contains(&roots) {
                all.push(roots);
            }
        }
        all
    }

    /// When the last flush that named the stream began.
    pub fn flushed(&self, dart: usize, stream: usize) -> u64 {
        self.streams[dart * STREAMS + stream].flushed
    }

    /// A flush of the stream, begun at `start`, is complete.
    pub fn set_flushed(&mut self, dart: usize, stream: usize, start: u64) {
        let history = &mut self.streams[dart * STREAMS + stream];
        history.flushed = start;
        history.before.retain(|&(gone, _)| gone > start);
    }

    /// Forgets values that no stream can still be using.
    pub fn prune(&mut self, oldest: u64) {
        if self.remembered < 20_000 {
            return;
        }
        self.remembered = 0;
        self.words.retain(|_, values| {
            values.retain(|&(gone, _)| gone > oldest);
            self.remembered += values.len();
            !values.is_empty()
        });
    }

    /// When `word` of `page` last changed; 0 for never.
    pub fn changed_at(&self, page: Gfn, word: usize) -> u64 {
        let values = self.words.get(&(page, word as u16));
        values.and_then(|values| values.last()).map_or(0, |&(gone, _)| gone)
    }

    /// The values of `word` of `page` that count for somebody who last looked at `since`, the present first.
    fn values(&self, page: Gfn, word: usize, since: u64, found: &mut Vec<u64>) -> bool {
        found.clear();
        let Some(now) = self.memory.word(page, word) else { return false };
        found.push(now);
        if let Some(values) = self.words.get(&(page, word as u16)) {
            for &(_, old) in values.iter().rev().take_while(|&&(gone, _)| gone > since) {
                if !found.contains(&old) {
                    found.push(old);
                }
            }
        }
        true
    }

    /// Every way in which an access of `iova_page` by the stream can end.
    pub fn reaches(&self, dart: usize, stream: usize, iova_page: u32) -> Vec<Reach> {
        let mut all = Vec::with_capacity(2);
        let mut add = |reach| {
            if !all.contains(&reach) {
                all.push(reach);
            }
        };
        let since = self.flushed(dart, stream);
        let at = selectors(iova_page);
        let (mut tables, mut leaves) = (Vec::new(), Vec::new());
        for roots in self.possible_roots(dart, stream) {
            let Some(roots) = roots else {
                // What a stream's fault says that does not translate is not documented.
                add(Reach::Nothing(ANY_CODE));
                continue;
            };
            let Some(root) = decode_root(roots[at.root]) else {
                add(Reach::Nothing(code::NO_TTBR));
                continue;
            };
            if !self.values(root, at.table, since, &mut tables) {
                add(Reach::Nothing(ANY_CODE));
            }
            for &entry in &tables {
                let Some(table) = decode_table(entry) else {
                    add(Reach::Nothing(code::NO_L1));
                    continue;
                };
                if !self.values(table, at.leaf, since, &mut leaves) {
                    add(Reach::Nothing(ANY_CODE));
                }
                for &entry in &leaves {
                    match decode_leaf(entry) {
                        None => add(Reach::Nothing(code::NO_LEAF)),
                        Some(leaf) if !self.memory.contains(leaf.page) => add(Reach::Nothing(ANY_CODE)),
                        Some(leaf) if leaf.is_narrowed => {
                            add(Reach::Page(leaf));
                            add(Reach::Nothing(ANY_CODE));
                        }
                        Some(leaf) => add(Reach::Page(leaf)),
                    }
                }
            }
        }
        all
    }
}
