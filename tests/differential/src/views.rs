//! Which guest pages are mapped: for each set of tables, its leaves as of its last flush.

use super::history::{History, Roots};
use crate::reference::{decode_leaf, decode_root, decode_table};
use oche_types::addr::Gfn;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::{BTreeMap, BTreeSet};

/// A leaf that changed from one flush to the next.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// The page of IOVAs.
    pub iova_page: u32,
    /// The entry before.
    pub before: u64,
    /// The entry now.
    pub after: u64,
}

/// How a page is mapped by several devices.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shared {
    /// By tables that were flushed.
    pub is_flushed: bool,
    /// By so many leaves.
    pub leaves: u32,
    /// By one that may read it.
    pub is_read: bool,
    /// By one that may write it.
    pub is_written: bool,
}

#[derive(Clone, Debug, Default)]
struct View {
    /// Leaf tables by TTBR and first-level index.
    tables: BTreeMap<u16, Table>,
    /// How often the first-level tables had been stored into when `tables` was made.
    changes: [u32; 4],
    /// Every guest page that holds a table of it, or held one since the last flush.
    pages: FxHashSet<Gfn>,
}

/// A leaf table as of a flush.
#[derive(Clone, Debug)]
struct Table {
    page: Gfn,
    /// How often the page had been stored into; `None` if that was another page.
    changes: Option<u32>,
    entries: Box<[u64; 512]>,
}

/// All sets of tables in use.
#[derive(Clone, Debug)]
pub struct Views {
    views: BTreeMap<Roots, View>,
    /// First page and number of pages of each run of RAM. What is kept of each page is in their
    /// order.
    ram: Vec<(Gfn, u32)>,
    /// How many flushed leaves map a page.
    mapped: Vec<u32>,
    /// How many of the views have a page among their tables.
    tables: Vec<u32>,
    /// In which sets of tables mappings of a page are changing, and when that was last touched.
    unsettled: Vec<Vec<(Roots, u64)>>,
    /// Pages of which there are such.
    changing: Vec<Gfn>,
}

const NO_TABLE: [u64; 512] = [0; 512];

impl Views {
    /// No tables in guest RAM of the runs `ram`.
    pub fn new(ram: &[(Gfn, u32)]) -> Self {
        let pages = ram.iter().map(|(_, pages)| *pages as usize).sum();
        Self {
            views: BTreeMap::new(),
            ram: ram.to_vec(),
            mapped: vec![0; pages],
            tables: vec![0; pages],
            unsettled: vec![Vec::new(); pages],
            changing: Vec::new(),
        }
    }

    fn number(&self, page: Gfn) -> Option<usize> {
        number_in(&self.ram, page)
    }

    /// The leaf of page `iova_page` of the tables `roots`, as of their last flush.
    pub fn entry(&self, roots: Roots, iova_page: u32) -> u64 {
        let tables = self.views.get(&roots).map(|view| &view.tables);
        let table = tables.and_then(|tables| tables.get(&((iova_page >> 9) as u16)));
        table.map_or(0, |table| table.entries[iova_page as usize % 512])
    }

    /// How many leaves map `page`, as of the flushes.
    pub fn mappings(&self, page: Gfn) -> u32 {
        self.number(page).map_or(0, |number| self.mapped[number])
    }

    /// Whether a mapping of `page` is changing: tables written, flush not yet done.
    pub fn is_unsettled(&self, page: Gfn) -> bool {
        self.number(page).is_some_and(|number| !self.unsettled[number].is_empty())
    }

    /// The sets of tables of which mappings are changing.
    pub fn unsettled_roots(&self) -> BTreeSet<Roots> {
        let all = self.changing.iter().filter_map(|page| self.number(*page));
        all.flat_map(|number| &self.unsettled[number]).map(|(roots, _)| *roots).collect()
    }

    /// Whether `page` may have more than one copy.
    pub fn is_shared(&self, page: Gfn) -> bool {
        self.mappings(page) >= 2 || self.is_unsettled(page)
    }

    /// Whether a device may find `page` anywhere.
    pub fn may_be_mapped(&self, page: Gfn) -> bool {
        self.mappings(page) != 0 || self.is_unsettled(page)
    }

    /// Whether `page` holds a table that counts.
    pub fn is_table(&self, page: Gfn) -> bool {
        self.number(page).is_some_and(|number| self.tables[number] != 0)
    }

    /// Words of `page` were stored: number, old, new.
    pub fn note_store(&mut self, history: &History, page: Gfn, changed: &[(u16, u64, u64)]) {
        if changed.is_empty() || !self.is_table(page) {
            return;
        }
        let now = history.now();
        let all: Vec<Roots> = self
            .views
            .iter()
            .filter(|(_, view)| view.pages.contains(&page))
            .map(|(r, _)| *r)
            .collect();
        for roots in all {
            let is_first = roots.iter().any(|&ttbr| decode_root(ttbr) == Some(page));
            for &(_, old, new) in changed {
                for value in [old, new] {
                    if let Some(leaf) = decode_leaf(value) {
                        self.unsettle(leaf.page, roots, now);
                    }
                    if is_first && let Some(table) = decode_table(value) {
                        self.note_table(history, roots, table);
                    }
                }
            }
        }
    }

    fn unsettle(&mut self, page: Gfn, roots: Roots, now: u64) {
        // Of what is no RAM nothing is ever compared.
        let Some(number) = self.number(page) else { return };
        let all = &mut self.unsettled[number];
        if all.is_empty() {
            self.changing.push(page);
        }
        match all.iter_mut().find(|(other, _)| *other == roots) {
            Some((_, touched)) => *touched = now,
            None => all.push((roots, now)),
        }
    }

    /// The leaves in `table` may begin or cease to count in the set of `roots`.
    fn note_table(&mut self, history: &History, roots: Roots, table: Gfn) {
        if !history.memory.contains(table) {
            return;
        }
        if self.views.entry(roots).or_default().pages.insert(table) {
            self.count_table(table, true);
        }
        for entry in words(history, table) {
            if let Some(leaf) = decode_leaf(entry) {
                self.unsettle(leaf.page, roots, history.now());
            }
        }
    }

    /// A stream begins or ceases to use the set of `roots`.
    pub fn note_roots(&mut self, history: &History, roots: Roots) {
        for root in roots.into_iter().filter_map(decode_root) {
            self.note_table(history, roots, root);
            for entry in words(history, root) {
                if let Some(table) = decode_table(entry) {
                    self.note_table(history, roots, table);
                }
            }
        }
    }

    /// Every leaf of `roots` that is not as at its last flush; from now on it is.
    pub fn refresh(&mut self, history: &History, roots: Roots) -> Vec<Change> {
        let mut changes = Vec::new();
        let known = self.views.get(&roots).map(|view| view.changes);
        let now = roots.map(|root| decode_root(root).map_or(0, |root| history.changes(root)));
        if let Some(view) = self.views.get_mut(&roots).filter(|_| known == Some(now)) {
            for (&number, table) in &mut view.tables {
                if Some(history.changes(table.page)) != table.changes {
                    table.compare(history, number, &mut changes);
                }
            }
            self.count_all(history, &changes);
            return changes;
        }
        let mut view = self.views.remove(&roots).unwrap_or_default();
        let mut tables = BTreeMap::new();
        let mut pages = FxHashSet::default();
        for (index, root) in roots.into_iter().enumerate() {
            let Some(root) = decode_root(root).filter(|root| history.memory.contains(*root)) else {
                continue;
            };
            pages.insert(root);
            for (word, entry) in words(history, root).enumerate() {
                let Some(table) = decode_table(entry) else { continue };
                if !history.memory.contains(table) {
                    continue;
                }
                pages.insert(table);
                let number = (index * 512 + word) as u16;
                let new = || Table { page: table, changes: None, entries: Box::new(NO_TABLE) };
                let mut entry = view.tables.remove(&number).unwrap_or_else(new);
                entry.changes = entry.changes.filter(|_| entry.page == table);
                entry.page = table;
                entry.compare(history, number, &mut changes);
                tables.insert(number, entry);
            }
        }
        for (number, table) in view.tables {
            for (leaf, &before) in
                table.entries.iter().enumerate().filter(|(_, entry)| **entry & 1 != 0)
            {
                let iova_page = u32::from(number) * 512 + leaf as u32;
                changes.push(Change { iova_page, before, after: 0 });
            }
        }
        view.pages.iter().for_each(|page| self.count_table(*page, false));
        pages.iter().for_each(|page| self.count_table(*page, true));
        self.views.insert(roots, View { tables, pages, changes: now });
        self.count_all(history, &changes);
        changes
    }

    fn count_all(&mut self, history: &History, changes: &[Change]) {
        for change in changes {
            self.count(history, change.before, false);
            self.count(history, change.after, true);
        }
    }

    fn count(&mut self, history: &History, entry: u64, is_added: bool) {
        let Some(page) = mapped_page(history, entry) else { return };
        let Some(number) = self.number(page) else { return };
        let count = &mut self.mapped[number];
        *count = if is_added { *count + 1 } else { count.saturating_sub(1) };
    }

    fn count_table(&mut self, page: Gfn, is_added: bool) {
        let Some(number) = self.number(page) else { return };
        let count = &mut self.tables[number];
        *count = if is_added { *count + 1 } else { *count - 1 };
    }

    /// Drops the sets of tables that no stream can be using, and pages whose change every stream
    /// has seen. Returns the pages whose mappings went. `in_use` are the streams that are.
    pub fn settle(&mut self, history: &History, in_use: &[(usize, usize)]) -> Vec<Gfn> {
        let mut seen: FxHashMap<Roots, u64> = FxHashMap::default();
        for &(dart, stream) in in_use {
            for roots in history.possible_roots(dart, stream).iter().flatten() {
                let flushed = history.flushed(dart, stream);
                seen.entry(roots)
                    .and_modify(|oldest| *oldest = flushed.min(*oldest))
                    .or_insert(flushed);
            }
        }
        let mut gone = Vec::new();
        let ended: Vec<Roots> =
            self.views.keys().filter(|roots| !seen.contains_key(*roots)).copied().collect();
        for roots in ended {
            let Some(view) = self.views.remove(&roots) else { continue };
            view.pages.iter().for_each(|page| self.count_table(*page, false));
            for entry in view.tables.values().flat_map(|table| table.entries.iter()) {
                self.count(history, *entry, false);
                gone.extend(mapped_page(history, *entry));
            }
        }
        self.changing.retain(|page| {
            let Some(number) = number_in(&self.ram, *page) else { return false };
            let all = &mut self.unsettled[number];
            all.retain(|(roots, touched)| {
                let stays = seen.get(roots).is_some_and(|flushed| *touched > *flushed);
                if !stays {
                    gone.push(*page);
                }
                stays
            });
            !all.is_empty()
        });
        gone
    }

    /// How leaves map those pages that `counts` accepts, at each page of IOVAs that it accepts: by
    /// `sets` as of the last flush, and with which rights by any.
    pub fn sharing_of(
        &self,
        history: &History,
        sets: &BTreeSet<Roots>,
        counts: impl Fn(Roots, u32, Gfn) -> bool,
    ) -> FxHashMap<Gfn, Shared> {
        let mut pages: FxHashMap<Gfn, Shared> = FxHashMap::default();
        for (roots, view) in &self.views {
            for (number, table) in &view.tables {
                for (leaf, &entry) in
                    table.entries.iter().enumerate().filter(|(_, entry)| **entry & 1 != 0)
                {
                    let Some(page) = mapped_page(history, entry) else { continue };
                    if counts(*roots, u32::from(*number) * 512 + leaf as u32, page)
                        && let Some(leaf) = decode_leaf(entry)
                    {
                        let shared = pages.entry(page).or_default();
                        shared.is_flushed |= sets.contains(roots);
                        shared.leaves += 1;
                        shared.is_read |= leaf.read;
                        shared.is_written |= leaf.write;
                    }
                }
            }
        }
        pages
    }

    /// The leaves that are mapped as of the flushes, with the page of each.
    pub fn leaves(&self, history: &History) -> Vec<(Roots, u32, Gfn)> {
        let mut all = Vec::new();
        for (roots, view) in &self.views {
            for (number, table) in &view.tables {
                for (leaf, &entry) in table.entries.iter().enumerate() {
                    if let Some(page) = mapped_page(history, entry) {
                        all.push((*roots, u32::from(*number) * 512 + leaf as u32, page));
                    }
                }
            }
        }
        all
    }
}

/// The place of `page` among all pages of the runs `ram`.
fn number_in(ram: &[(Gfn, u32)], page: Gfn) -> Option<usize> {
    let mut before = 0;
    for &(first, pages) in ram {
        let offset = page.0.wrapping_sub(first.0);
        if offset < pages {
            return Some((before + offset) as usize);
        }
        before += pages;
    }
    None
}

/// The words of `page`; none where there is no RAM.
fn words(history: &History, page: Gfn) -> impl Iterator<Item = u64> {
    let bytes = history.memory.page(page).unwrap_or_default();
    bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()))
}

/// The RAM page that a leaf entry lets a device reach.
pub fn mapped_page(history: &History, entry: u64) -> Option<Gfn> {
    let leaf = decode_leaf(entry).filter(|leaf| leaf.read || leaf.write)?;
    history.memory.contains(leaf.page).then_some(leaf.page)
}

impl Table {
    /// Takes over the entries as they are by now and lists those that changed.
    fn compare(&mut self, history: &History, number: u16, changes: &mut Vec<Change>) {
        let Some(bytes) = history.memory.page(self.page) else { return };
        let (words, _) = bytes.as_chunks::<8>();
        let all = 0..self.entries.len();
        let compare = |leaf: usize| {
            let (entry, after) = (&mut self.entries[leaf], u64::from_le_bytes(words[leaf]));
            if after != *entry {
                let iova_page = u32::from(number) * 512 + leaf as u32;
                changes.push(Change { iova_page, before: *entry, after });
                *entry = after;
            }
        };
        match self.changes.and_then(|changes| history.changed_since(self.page, changes)) {
            Some(changed) => changed.into_iter().for_each(compare),
            None => all.for_each(compare),
        }
        self.changes = Some(history.changes(self.page));
    }
}
