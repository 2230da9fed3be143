//! Sets of pages of IOVAs, each of a set of tables.

use super::history::Roots;
use oche_types::addr::Gfn;
use rustc_hash::{FxHashMap, FxHashSet};

/// Pages of IOVAs of few sets of tables: what is looked up in every flush is found fast, and what
/// goes goes at once.
#[derive(Clone, Debug, Default)]
pub struct IovaPages {
    sets: Vec<(Roots, FxHashSet<u32>)>,
}

impl IovaPages {
    /// Whether page `iova_page` of the tables of `roots` is in it.
    pub fn contains(&self, roots: Roots, iova_page: u32) -> bool {
        self.sets
            .iter()
            .find(|(own, _)| *own == roots)
            .is_some_and(|(_, pages)| pages.contains(&iova_page))
    }

    /// Adds a page.
    pub fn insert(&mut self, roots: Roots, iova_page: u32) {
        match self.sets.iter_mut().find(|(own, _)| *own == roots) {
            Some((_, pages)) => drop(pages.insert(iova_page)),
            None => self.sets.push((roots, FxHashSet::from_iter([iova_page]))),
        }
    }

    /// Takes a page out.
    pub fn remove(&mut self, roots: Roots, iova_page: u32) {
        if let Some((_, pages)) = self.sets.iter_mut().find(|(own, _)| *own == roots) {
            pages.remove(&iova_page);
        }
    }

    /// Keeps the pages of those sets of tables for which `stays` holds.
    pub fn retain(&mut self, stays: impl Fn(&Roots) -> bool) {
        self.sets.retain(|(roots, pages)| !pages.is_empty() && stays(roots));
    }
}

/// Guest pages that the engine refused to map, with the page of IOVAs where each was to be.
#[derive(Clone, Debug, Default)]
pub struct RefusedPages {
    sets: Vec<(Roots, FxHashMap<u32, Vec<Gfn>>)>,
}

impl RefusedPages {
    fn at(&self, roots: Roots, iova_page: u32) -> &[Gfn] {
        let own = self.sets.iter().find(|(own, _)| *own == roots);
        own.and_then(|(_, refused)| refused.get(&iova_page)).map_or(&[], Vec::as_slice)
    }

    /// Whether `page` is refused at page `iova_page` of the tables of `roots`.
    pub fn contains(&self, roots: Roots, iova_page: u32, page: Gfn) -> bool {
        self.at(roots, iova_page).contains(&page)
    }

    /// Whether any page is refused there.
    pub fn is_any_at(&self, roots: Roots, iova_page: u32) -> bool {
        !self.at(roots, iova_page).is_empty()
    }

    /// `page` is refused at page `iova_page`.
    pub fn insert(&mut self, roots: Roots, iova_page: u32, page: Gfn) {
        if self.contains(roots, iova_page, page) {
            return;
        }
        let place = self.sets.iter().position(|(own, _)| *own == roots).unwrap_or_else(|| {
            self.sets.push((roots, FxHashMap::default()));
            self.sets.len() - 1
        });
        self.sets[place].1.entry(iova_page).or_default().push(page);
    }

    /// Forgets what is refused at page `iova_page`.
    pub fn remove(&mut self, roots: Roots, iova_page: u32) {
        if let Some((_, refused)) = self.sets.iter_mut().find(|(own, _)| *own == roots) {
            refused.remove(&iova_page);
        }
    }

    /// Forgets what is refused at page `iova_page`, but for `page`.
    pub fn keep_only(&mut self, roots: Roots, iova_page: u32, page: Gfn) {
        let is_refused = self.contains(roots, iova_page, page);
        self.remove(roots, iova_page);
        if is_refused {
            self.insert(roots, iova_page, page);
        }
    }

    /// Keeps the pages of those sets of tables for which `stays` holds.
    pub fn retain(&mut self, stays: impl Fn(&Roots) -> bool) {
        self.sets.retain(|(roots, refused)| !refused.is_empty() && stays(roots));
    }
}

/// Pages of IOVAs that a leaf table maps, and that a first-level table does.
const LEAF_TABLE_PAGES: u32 = 512;
const FIRST_TABLE_PAGES: u32 = 1 << 18;
/// Leaf tables of all IOVAs.
const LEAF_TABLES: usize = 2048;

/// Tables that the engine refused, by the pages of IOVAs that they are about.
#[derive(Clone, Debug, Default)]
pub struct RefusedTables {
    /// For each set of tables whether each leaf table is refused, or what leads to it.
    tables: Vec<(Roots, Box<[bool; LEAF_TABLES]>)>,
}

impl RefusedTables {
    /// Whether page `iova_page` of the tables of `roots` is in one of them.
    pub fn contains(&self, roots: Roots, iova_page: u32) -> bool {
        let own = self.tables.iter().find(|(own, _)| *own == roots);
        own.is_some_and(|(_, refused)| {
            refused.get((iova_page / LEAF_TABLE_PAGES) as usize) == Some(&true)
        })
    }

    /// All that `roots` leads to is refused.
    pub fn insert_all(&mut self, roots: Roots) {
        self.add(roots, 0, LEAF_TABLES);
    }

    /// A table that maps page `iova_page` is refused: a first-level one or a leaf table.
    pub fn insert(&mut self, roots: Roots, iova_page: u32, is_first_level: bool) {
        let size = if is_first_level { FIRST_TABLE_PAGES } else { LEAF_TABLE_PAGES };
        let first = (iova_page & !(size - 1)) / LEAF_TABLE_PAGES;
        self.add(roots, first as usize, (size / LEAF_TABLE_PAGES) as usize);
    }

    /// The leaf table that maps page `iova_page` is taken after all.
    pub fn remove(&mut self, roots: Roots, iova_page: u32) {
        if let Some((_, refused)) = self.tables.iter_mut().find(|(own, _)| *own == roots) {
            refused[(iova_page / LEAF_TABLE_PAGES) as usize % LEAF_TABLES] = false;
        }
    }

    fn add(&mut self, roots: Roots, first: usize, count: usize) {
        let place = self.tables.iter().position(|(own, _)| *own == roots).unwrap_or_else(|| {
            self.tables.push((roots, Box::new([false; LEAF_TABLES])));
            self.tables.len() - 1
        });
        self.tables[place].1[first..first + count].fill(true);
    }

    /// Keeps those of the sets of tables for which `stays` holds.
    pub fn retain(&mut self, stays: impl Fn(&Roots) -> bool) {
        self.tables.retain(|(roots, _)| stays(roots));
    }
}
