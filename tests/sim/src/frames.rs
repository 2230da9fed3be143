//! The rules for what the 16K hardware may reach: nothing that it could still find is used for
//! anything else.
//!
//! The hardware may have cached any entry that was valid at any moment since its domain was
//! invalidated last. So an entry that is taken out stays *possible* until then, and:
//! - a frame goes back to the pool only when no entry, present or possible, leads to it, and no CPU
//!   finds a page of the guest there;
//! - an entry that comes to name a table or a frame of the pool does so when every observer sees
//!   its bytes: what was there before may have been somebody else's;
//! - when the engine has done what it was asked, every observer sees the entries that it stored.

use crate::cpu_tables::CpuTables;
use crate::memory::HostMemory;
use crate::setup::Board;
use oche_engine::host::DomainId;
use oche_types::addr::{Hfn, HostGranule, PAGE_WORDS, SLOTS, SlotRun};
use oche_types::dart::stream::{DartId, StreamId};
use std::collections::BTreeMap;
use std::ops::Range;

/// First-level entries that 32-bit IOVAs use.
const FIRST_LEVEL_WORDS: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    First,
    Leaf,
}

/// What the hardware may find, and what is wrong with it.
#[derive(Debug)]
pub struct Frames {
    /// The pool. What is kept of each frame is in its order.
    pool: Range<HostGranule>,
    tables: Vec<Option<(DomainId, Level)>>,
    roots: BTreeMap<DomainId, HostGranule>,
    attached: BTreeMap<(usize, usize), DomainId>,
    /// Entries that lead to each frame now.
    entries: Vec<u32>,
    /// Entries that are gone and may still be cached.
    possible: Vec<(DomainId, HostGranule)>,
    /// Barriers for all observers before the last entry was stored.
    stored: Option<u64>,
}

impl Frames {
    /// Nothing in `pool` is anything yet.
    pub fn new(pool: Range<HostGranule>) -> Self {
        let count = (pool.end.0 - pool.start.0) as usize;
        Self {
            pool,
            tables: vec![None; count],
            roots: BTreeMap::new(),
            attached: BTreeMap::new(),
            entries: vec![0; count],
            possible: Vec::new(),
            stored: None,
        }
    }

    /// Whether `page` is part of a table that the hardware walks.
    pub fn is_table(&self, page: Hfn) -> bool {
        self.table(page.frame()).is_some()
    }

    fn place(&self, frame: HostGranule) -> usize {
        frame.0.wrapping_sub(self.pool.start.0) as usize
    }

    fn table(&self, frame: HostGranule) -> Option<(DomainId, Level)> {
        self.tables.get(self.place(frame)).copied().flatten()
    }

    fn entries_to(&self, frame: HostGranule) -> u32 {
        self.entries.get(self.place(frame)).copied().unwrap_or(0)
    }

    /// One more entry leads to `frame`.
    fn count(&mut self, frame: HostGranule) {
        let place = self.place(frame);
        if let Some(entries) = self.entries.get_mut(place) {
            *entries += 1;
        }
    }

    fn set_table(&mut self, frame: HostGranule, table: Option<(DomainId, Level)>) {
        let place = self.place(frame);
        if let Some(known) = self.tables.get_mut(place) {
            *known = table;
        }
    }

    /// The engine stores the entry in word `word` of `page`.
    ///
    /// # Errors
    ///
    /// What it must not do.
    pub fn store(
        &mut self,
        board: Board,
        memory: &HostMemory,
        cpus: &CpuTables,
        (page, word): (Hfn, usize),
        (before, now): (u64, u64),
    ) -> Result<(), String> {
        let Some((domain, level)) = self.table(page.frame()) else { return Ok(()) };
        if before == now {
            return Ok(());
        }
        self.stored = Some(cpus.checker().barriers_for_all());
        let leads_to = |entry: u64| match level {
            Level::First => board.decode_table(entry),
            Level::Leaf => board.decode_leaf(entry).map(|(frame, ..)| frame),
        };
        let left = leads_to(before).filter(|_| before & 1 != 0);
        if let Some(frame) = left {
            self.forget(frame);
            // Only a stream that translates has anything cached.
            if self.attached.values().any(|other| *other == domain) {
                self.possible.push((domain, frame));
            }
        }
        if now & 1 == 0 {
            return Ok(());
        }
        let Some(frame) = leads_to(now) else {
            return Err(format!("entry {now:#x} in word {word} of {page:?} leads nowhere"));
        };
        if level == Level::First {
            self.add_table(board, memory, domain, frame);
        }
        self.count(frame);
        if left == Some(frame) || !self.pool.contains(&frame) {
            return Ok(());
        }
        let window = match level {
            Level::First => SlotRun::ALL,
            Level::Leaf => board.decode_leaf(now).map_or(SlotRun::ALL, |(.., window)| window),
        };
        let mut shown =
            (0..SLOTS).filter(|slot| window.contains(*slot)).map(|slot| frame.page(slot));
        let hidden = shown.find(|page| !cpus.checker().is_visible_to_all(*page));
        match hidden {
            Some(hidden) => {
                Err(format!("an entry leads to {frame:?} before all observers see {hidden:?}"))
            }
            None => Ok(()),
        }
    }

    /// `domain` is what `stream` translates through, from `root` on.
    pub fn attach(
        &mut self,
        board: Board,
        memory: &HostMemory,
        (dart, stream): (DartId, StreamId),
        domain: DomainId,
        root: HostGranule,
    ) {
        self.detach(dart, stream);
        self.attached.insert((dart.index(), stream.index()), domain);
        if self.roots.insert(domain, root) == Some(root) {
            return;
        }
        self.set_table(root, Some((domain, Level::First)));
        self.count(root);
        for word in 0..FIRST_LEVEL_WORDS {
            let entry = table_word(memory, root, word);
            if let Some(table) = board.decode_table(entry).filter(|_| entry & 1 != 0) {
                self.add_table(board, memory, domain, table);
                self.count(table);
            }
        }
    }

    /// `stream` translates through nothing; if it was the last of its domain, nothing of that is
    /// cached.
    pub fn detach(&mut self, dart: DartId, stream: StreamId) {
        if let Some(domain) = self.attached.remove(&(dart.index(), stream.index()))
            && !self.attached.values().any(|other| *other == domain)
        {
            self.invalidate(domain);
        }
    }

    /// The hardware has dropped what it cached of `domain`.
    pub fn invalidate(&mut self, domain: DomainId) {
        self.possible.retain(|(other, _)| *other != domain);
    }

    /// The engine has no use for `frame` any more.
    ///
    /// # Errors
    ///
    /// Somebody may still reach it.
    pub fn release(
        &mut self,
        memory: &HostMemory,
        board: Board,
        cpus: &CpuTables,
        frame: HostGranule,
    ) -> Result<(), String> {
        if let Some((domain, level)) = self.table(frame) {
            self.set_table(frame, None);
            if level == Level::First {
                // The number may belong to another domain by now, whose table is another.
                let is_current = self.roots.get(&domain) == Some(&frame);
                if is_current {
                    self.roots.remove(&domain);
                }
                self.forget(frame);
                // The tables below go with it.
                for word in 0..FIRST_LEVEL_WORDS {
                    let entry = table_word(memory, frame, word);
                    if let Some(table) = board.decode_table(entry).filter(|_| entry & 1 != 0) {
                        self.forget(table);
                    }
                }
                if is_current && self.attached.values().any(|other| *other == domain) {
                    return Err(format!(
                        "the first-level table {frame:?} is given back with streams attached"
                    ));
                }
            } else if self.roots.contains_key(&domain)
                && self.attached.values().any(|other| *other == domain)
                && self.entries_to(frame) != 0
            {
                return Err(format!("the table {frame:?} is given back while it is linked"));
            } else {
                let place = self.place(frame);
                if let Some(entries) = self.entries.get_mut(place) {
                    *entries = 0;
                }
            }
        }
        if self.entries_to(frame) != 0 {
            return Err(format!("{frame:?} is given back while an entry leads to it"));
        }
        if let Some((domain, _)) = self.possible.iter().find(|(_, other)| *other == frame) {
            return Err(format!("{frame:?} is given back before {domain:?} was invalidated"));
        }
        match (0..SLOTS).find_map(|slot| cpus.found_at(memory, frame.page(slot))) {
            Some(page) => Err(format!("{frame:?} is given back while CPUs find {page:?} there")),
            None => Ok(()),
        }
    }

    /// To be called when the engine has done what it was asked.
    ///
    /// # Errors
    ///
    /// An observer may not see all entries yet.
    pub fn check_settled(&mut self, barriers_for_all: u64) -> Result<(), String> {
        match self.stored.take() {
            Some(stored) if stored == barriers_for_all => {
                Err("the engine returned before its entries were visible to all observers"
                    .to_owned())
            }
            _ => Ok(()),
        }
    }

    fn add_table(
        &mut self,
        board: Board,
        memory: &HostMemory,
        domain: DomainId,
        table: HostGranule,
    ) {
        self.set_table(table, Some((domain, Level::Leaf)));
        for slot in 0..SLOTS {
            let words = memory.index(table.page(slot)).map(|index| memory.page(index));
            for &entry in words.into_iter().flatten().filter(|entry| **entry & 1 != 0) {
                if let Some((frame, ..)) = board.decode_leaf(entry) {
                    self.count(frame);
                }
            }
        }
    }

    fn forget(&mut self, frame: HostGranule) {
        let place = self.place(frame);
        if let Some(entries) = self.entries.get_mut(place) {
            *entries = entries.saturating_sub(1);
        }
    }
}

fn table_word(memory: &HostMemory, table: HostGranule, word: usize) -> u64 {
    memory
        .index(table.page(word / PAGE_WORDS))
        .map_or(0, |index| memory.word(index, word % PAGE_WORDS))
}
