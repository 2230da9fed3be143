//! Which guest pages are mapped: for each set of tables, its leaves as of its last flush.

use super::history::{History, Roots};
use crate::reference::registers::STREAMS;
use crate::reference::walk::{decode_leaf, decode_root, decode_table};
use oche_hyp::addr::Gfn;
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
    /// Whether it is certain that no earlier flush can have shown this change to the engine.
    pub is_certain: bool,
}

#[derive(Clone, Debug, Default)]
struct View {
    /// Leaf tables by TTBR and first-level index, with their entries.
    tables: BTreeMap<u16, (Gfn, Box<[u64]>)>,
    /// Every guest page that holds a table of it, or held one since the last flush.
    pages: BTreeSet<Gfn>,
}

/// All sets of tables in use.
#[derive(Clone, Debug, Default)]
pub struct Views {
    views: BTreeMap<Roots, View>,
    /// How many flushed leaves map a page.
    mapped: BTreeMap<Gfn, u32>,
    /// Pages whose mappings are changing, in which set of tables, and when that was last touched.
    unsettled: BTreeMap<(Gfn, Roots), u64>,
}

const NO_TABLE: [u64; 512] = [0; 512];

impl Views {
    /// How many leaves map `page`, as of the flushes.
    pub fn mappings(&self, page: Gfn) -> u32 {
        self.mapped.get(&page).copied().unwrap_or(0)
    }

    /// Whether a mapping of `page` is changing: tables written, flush not yet done.
    pub fn is_unsettled(&self, page: Gfn) -> bool {
        self.unsettled.range((page, [0; 4])..=(page, [u32::MAX; 4])).next().is_some()
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
        self.views.values().any(|view| view.pages.contains(&page))
    }

    /// All pages that hold a table.
    pub fn tables(&self) -> impl Iterator<Item = Gfn> {
        self.views.values().flat_map(|view| view.pages.iter().copied())
    }

    /// Words of `page` were stored: number, old, new.
    pub fn note_store(&mut self, history: &History, page: Gfn, changed: &[(u16, u64, u64)]) {
        if changed.is_empty() || !self.is_table(page) {
            return;
        }
        let now = history.now();
        let all: Vec<Roots> =
            self.views.iter().filter(|(_, view)| view.pages.contains(&page)).map(|(r, _)| *r).collect();
        for roots in all {
            let is_first = roots.iter().any(|&ttbr| decode_root(ttbr) == Some(page));
            for &(_, old, new) in changed {
                for value in [old, new] {
                    if let Some(leaf) = decode_leaf(value) {
                        self.unsettled.insert((leaf.page, roots), now);
                    }
                    if is_first && let Some(table) = decode_table(value) {
                        self.note_table(history, roots, table);
                    }
                }
            }
        }
    }

    /// The leaves in `table` may begin or cease to count in the set of `roots`.
    fn note_table(&mut self, history: &History, roots: Roots, table: Gfn) {
        if !history.memory.contains(table) {
            return;
        }
        self.views.entry(roots).or_default().pages.insert(table);
        for word in 0..512 {
            if let Some(leaf) = history.memory.word(table, word).and_then(decode_leaf) {
                self.unsettled.insert((leaf.page, roots), history.now());
            }
        }
    }

    /// A stream begins or ceases to use the set of `roots`.
    pub fn note_roots(&mut self, history: &History, roots: Roots) {
        for root in roots.into_iter().filter_map(decode_root) {
            self.note_table(history, roots, root);
            for word in 0..512 {
                if let Some(table) = history.memory.word(root, word).and_then(decode_table) {
                    self.note_table(history, roots, table);
                }
            }
        }
    }

    /// Every leaf of `roots` that is not as at its last flush; from now on it is. `previous` is when any
    /// flush last began.
    pub fn refresh(&mut self, history: &History, roots: Roots, previous: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut view = self.views.remove(&roots).unwrap_or_default();
        let mut tables = BTreeMap::new();
        let mut pages = BTreeSet::new();
        for (index, root) in roots.into_iter().enumerate() {
            let Some(root) = decode_root(root).filter(|root| history.memory.contains(*root)) else {
                continue;
            };
            pages.insert(root);
            for word in 0..512 {
                let Some(table) = history.memory.word(root, word).and_then(decode_table) else { continue };
                let Some(bytes) = history.memory.page(table) else { continue };
                pages.insert(table);
                let number = (index * 512 + word) as u16;
                let (old_table, mut entries) =
                    view.tables.remove(&number).unwrap_or((table, Box::new(NO_TABLE)));
                let is_linked = old_table == table && history.changed_at(root, word) <= previous;
                compare(history, number, table, bytes, &mut entries, is_linked, previous, &mut changes);
                tables.insert(number, (table, entries));
            }
        }
        for (number, (_, entries)) in view.tables {
            for (leaf, &before) in entries.iter().enumerate().filter(|(_, entry)| **entry & 1 != 0) {
                let iova_page = u32::from(number) * 512 + leaf as u32;
                changes.push(Change { iova_page, before, after: 0, is_certain: false });
            }
        }
        self.views.insert(roots, View { tables, pages });
        for change in &changes {
            self.count(history, change.before, false);
            self.count(history, change.after, true);
        }
        changes
    }

    fn count(&mut self, history: &History, entry: u64, is_added: bool) {
        let Some(page) = mapped_page(history, entry) else { return };
        let count = self.mapped.entry(page).or_default();
        *count = if is_added { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            self.mapped.remove(&page);
        }
    }

    /// Drops the sets of tables that no stream can be using, and pages whose change every stream has seen.
    /// Returns the pages whose mappings went.
    pub fn settle(&mut self, history: &History) -> Vec<Gfn> {
        let mut seen: BTreeMap<Roots, u64> = BTreeMap::new();
        for dart in 0..history.darts.len() {
            for stream in 0..STREAMS {
                for roots in history.possible_roots(dart, stream).into_iter().flatten() {
                    let flushed = history.flushed(dart, stream);
                    seen.entry(roots).and_modify(|oldest| *oldest = flushed.min(*oldest)).or_insert(flushed);
                }
            }
        }
        let mut gone = Vec::new();
        let ended: Vec<Roots> =
            self.views.keys().filter(|roots| !seen.contains_key(*roots)).copied().collect();
        for roots in ended {
            let Some(view) = self.views.remove(&roots) else { continue };
            for entry in view.tables.values().flat_map(|(_, entries)| entries.iter()) {
                self.count(history, *entry, false);
                gone.extend(mapped_page(history, *entry));
            }
        }
        self.unsettled.retain(|(page, roots), touched| {
            let stays = seen.get(roots).is_some_and(|flushed| *touched > *flushed);
            if !stays {
                gone.push(*page);
            }
            stays
        });
        gone
    }

    /// The leaves that are mapped as of the flushes, with the page of each.
    pub fn leaves(&self, history: &History) -> Vec<(Roots, u32, Gfn)> {
        let mut all = Vec::new();
        for (roots, view) in &self.views {
            for (number, (_, entries)) in &view.tables {
                for (leaf, &entry) in entries.iter().enumerate() {
                    if let Some(page) = mapped_page(history, entry) {
                        all.push((*roots, u32::from(*number) * 512 + leaf as u32, page));
                    }
                }
            }
        }
        all
    }
}

/// The RAM page that a leaf entry lets a device reach.
pub fn mapped_page(history: &History, entry: u64) -> Option<Gfn> {
    let leaf = decode_leaf(entry).filter(|leaf| leaf.read || leaf.write)?;
    history.memory.contains(leaf.page).then_some(leaf.page)
}

#[expect(clippy::too_many_arguments, reason = "one loop's body, named")]
fn compare(
    history: &History,
    number: u16,
    table: Gfn,
    bytes: &[u8],
    entries: &mut [u64],
    is_linked: bool,
    previous: u64,
    changes: &mut Vec<Change>,
) {
    for (leaf, (entry, bytes)) in entries.iter_mut().zip(bytes.chunks_exact(8)).enumerate() {
        let mut now = [0; 8];
        now.copy_from_slice(bytes);
        let after = u64::from_le_bytes(now);
        if after != *entry {
            let is_certain = is_linked && history.changed_at(table, leaf) > previous;
            let iova_page = u32::from(number) * 512 + leaf as u32;
            changes.push(Change { iova_page, before: *entry, after, is_certain });
            *entry = after;
        }
    }
}
