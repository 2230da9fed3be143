//! What tables and registers held at any moment since a stream's last flush.
//!
//! Between a change and the flush a DART may act on the old state or the new one. So each stored
//! word keeps its earlier values with the time at which they went, and a walk follows every value
//! that still counts.

use crate::reference::{GuestMemory, Leaf, decode_leaf, decode_root, decode_table};
use oche_reference::registers::{Dart, STREAMS, STREAMS_ENABLE};
use oche_reference::walk::{code, selectors};
use oche_types::addr::{Gfn, PAGE_WORDS};
use std::collections::VecDeque;
use std::iter;

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

/// What a word held once.
#[derive(Clone, Copy, Debug)]
struct Past {
    /// When it ceased to.
    gone: u64,
    value: u64,
    /// What the word held before that, counted from 1; 0 for none.
    before: u32,
    /// Which word of its page it is, and the page's change before that, counted from 1; 0 for none.
    word: u16,
    before_in_page: u32,
}

/// Sets of tables that a stream may be using, each once, the present one first.
#[derive(Clone, Debug)]
pub struct PossibleRoots {
    now: Option<Roots>,
    former: Vec<Option<Roots>>,
}

impl PossibleRoots {
    /// Whether there is but one.
    pub fn is_certain(&self) -> bool {
        self.former.is_empty()
    }

    /// All.
    pub fn iter(&self) -> impl Iterator<Item = Option<Roots>> {
        iter::once(self.now).chain(self.former.iter().copied())
    }
}

/// Guest memory, registers, and their past.
#[derive(Clone, Debug)]
pub struct History {
    /// Memory as it is now.
    pub memory: GuestMemory,
    /// DARTs as they are now.
    pub darts: Vec<Dart>,
    now: u64,
    /// Former values of all words, oldest first.
    past: VecDeque<Past>,
    /// How many were forgotten.
    forgotten: u32,
    /// Per page and word: which of the former values is the latest, counted from 1; 0 for none.
    latest: Vec<Option<Box<[u32; PAGE_WORDS]>>>,
    /// How many words of each page were changed.
    changes: Vec<u32>,
    /// Per page: its latest change among the former values, counted from 1; 0 for none.
    latest_in_page: Vec<u32>,
    streams: Vec<StreamHistory>,
}

impl History {
    /// Nothing has happened.
    pub fn new(memory: GuestMemory, darts: usize) -> Self {
        let pages = memory.pages().count();
        Self {
            memory,
            darts: vec![Dart::default(); darts],
            now: 1,
            past: VecDeque::new(),
            forgotten: 0,
            latest: vec![None; pages],
            changes: vec![0; pages],
            latest_in_page: vec![0; pages],
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
        let mut changed = Vec::new();
        let Some(number) = self.memory.number(page) else { return changed };
        let Some(memory) = self.memory.page_mut(page) else { return changed };
        for word in offset / 8..(offset + bytes.len()).div_ceil(8) {
            let own = word * 8..word * 8 + 8;
            let old = word_of(&memory[own.clone()]);
            let (start, end) = (own.start.max(offset), own.end.min(offset + bytes.len()));
            memory[start..end].copy_from_slice(&bytes[start - offset..end - offset]);
            let new = word_of(&memory[own]);
            if new != old {
                let latest = self.latest[number].get_or_insert_with(|| Box::new([0; PAGE_WORDS]));
                let before_in_page = self.latest_in_page[number];
                let (gone, value, before) = (self.now, old, latest[word]);
                self.past.push_back(Past {
                    gone,
                    value,
                    before,
                    word: word as u16,
                    before_in_page,
                });
                latest[word] = self.forgotten + self.past.len() as u32;
                self.latest_in_page[number] = latest[word];
                changed.push((word as u16, old, new));
            }
        }
        self.changes[number] += changed.len() as u32;
        changed
    }

    /// How often `page` was changed: the same number, the same bytes.
    pub fn changes(&self, page: Gfn) -> u32 {
        self.memory.number(page).map_or(0, |number| self.changes[number])
    }

    /// The words of `page` that changed since [`Self::changes`] was `changes`, ascending. `None`:
    /// so many that it is not worth the trouble, or some of it is forgotten.
    pub fn changed_since(&self, page: Gfn, changes: u32) -> Option<Vec<usize>> {
        const MOST: u32 = 48;
        let number = self.memory.number(page)?;
        let count = self.changes[number].checked_sub(changes).filter(|count| *count <= MOST)?;
        let mut words = Vec::with_capacity(count as usize);
        let mut at = self.latest_in_page[number];
        for _ in 0..count {
            let past = self.past.get(at.checked_sub(self.forgotten + 1)? as usize)?;
            words.push(usize::from(past.word));
            at = past.before_in_page;
        }
        words.sort_unstable();
        words.dedup();
        Some(words)
    }

    /// The former values of `word` of `page`, latest first.
    fn former(&self, page: Gfn, word: usize) -> impl Iterator<Item = Past> {
        let latest = self.memory.number(page).and_then(|number| self.latest[number].as_ref());
        let mut at = latest.map_or(0, |latest| latest[word]);
        iter::from_fn(move || {
            let past = *self.past.get((at.checked_sub(self.forgotten + 1)?) as usize)?;
            at = past.before;
            Some(past)
        })
    }

    /// Writes a register of DART `dart`. Returns the tables that streams used before or use now,
    /// where those differ.
    pub fn write_register(&mut self, dart: usize, offset: u64, value: u32) -> Vec<Roots> {
        self.now += 1;
        let mut changed = Vec::new();
        if offset < STREAMS_ENABLE {
            // Nothing below it defines what a stream uses.
            self.darts[dart].write(offset, value);
            return changed;
        }
        let before: [_; STREAMS] = core::array::from_fn(|stream| self.roots(dart, stream));
        self.darts[dart].write(offset, value);
        for (stream, before) in before.into_iter().enumerate() {
            let after = self.roots(dart, stream);
            if after != before {
                self.streams[dart * STREAMS + stream].before.push((self.now, before));
                changed.extend([before, after].into_iter().flatten());
            }
        }
        changed
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

    /// Whether every access of the stream faults, and has since its last flush.
    pub fn is_idle(&self, dart: usize, stream: usize) -> bool {
        self.streams[dart * STREAMS + stream].before.is_empty()
            && self.roots(dart, stream).is_none()
    }

    /// Whether the stream's registers changed since its last flush.
    pub fn is_between(&self, dart: usize, stream: usize) -> bool {
        !self.streams[dart * STREAMS + stream].before.is_empty()
    }

    /// Every set of tables that the stream may be using, the present one first.
    pub fn possible_roots(&self, dart: usize, stream: usize) -> PossibleRoots {
        let history = &self.streams[dart * STREAMS + stream];
        let mut all = PossibleRoots { now: self.roots(dart, stream), former: Vec::new() };
        for &(gone, roots) in &history.before {
            if gone > history.flushed && roots != all.now && !all.former.contains(&roots) {
                all.former.push(roots);
            }
        }
        all
    }

    /// DART and stream of all that are not idle.
    pub fn streams_in_use(&self) -> Vec<(usize, usize)> {
        let all =
            (0..self.darts.len()).flat_map(|dart| (0..STREAMS).map(move |stream| (dart, stream)));
        all.filter(|&(dart, stream)| !self.is_idle(dart, stream)).collect()
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
        while self.past.pop_front_if(|past| past.gone <= oldest).is_some() {
            self.forgotten += 1;
        }
    }

    /// The values of `word` of `page` that count for somebody who last looked at `since`, the
    /// present first. None where there is no RAM. A value can come more than once.
    fn values(&self, page: Gfn, word: usize, since: u64) -> impl Iterator<Item = u64> {
        let now = self.memory.word(page, word);
        let former = now.map(|_| self.former(page, word).take_while(move |past| past.gone > since));
        now.into_iter().chain(former.into_iter().flatten().map(|past| past.value))
    }

    /// The way in which an access of `iova_page` by the stream ends if it sees the present tables.
    pub fn present(&self, dart: usize, stream: usize, iova_page: u32) -> Reach {
        self.reaches(dart, stream, iova_page).first().copied().unwrap_or(Reach::Nothing(ANY_CODE))
    }

    /// Every way in which an access of `iova_page` by the stream can end, the present one first.
    pub fn reaches(&self, dart: usize, stream: usize, iova_page: u32) -> Vec<Reach> {
        let mut all = Vec::with_capacity(2);
        let mut add = |reach| {
            if !all.contains(&reach) {
                all.push(reach);
            }
        };
        let since = self.flushed(dart, stream);
        let at = selectors(iova_page);
        for roots in self.possible_roots(dart, stream).iter() {
            let Some(roots) = roots else {
                // What the fault of a stream reports that does not translate is not documented.
                add(Reach::Nothing(ANY_CODE));
                continue;
            };
            let Some(root) = decode_root(roots[at.root]) else {
                add(Reach::Nothing(code::NO_TTBR));
                continue;
            };
            if !self.memory.contains(root) {
                add(Reach::Nothing(ANY_CODE));
            }
            for entry in self.values(root, at.table, since) {
                let Some(table) = decode_table(entry) else {
                    add(Reach::Nothing(code::NO_L1));
                    continue;
                };
                if !self.memory.contains(table) {
                    add(Reach::Nothing(ANY_CODE));
                }
                for entry in self.values(table, at.leaf, since) {
                    match decode_leaf(entry) {
                        None => add(Reach::Nothing(code::NO_LEAF)),
                        Some(leaf) if !self.memory.contains(leaf.page) => {
                            add(Reach::Nothing(ANY_CODE))
                        }
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

fn word_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap_or_default())
}
