//! Sets of pages of IOVAs, each of a set of tables.

use super::history::Roots;
use rustc_hash::FxHashSet;

/// Pages of IOVAs of few sets of tables: what is looked up in every flush is found fast, and what goes goes at once.
#[derive(Clone, Debug, Default)]
pub struct IovaPages {
    sets: Vec<(Roots, FxHashSet<u32>)>,
}

impl IovaPages {
    /// Whether page `iova_page` of the tables of `roots` is in it.
    pub fn contains(&self, roots: Roots, iova_page: u32) -> bool {
        self.sets.iter().find(|(own, _)| *own == roots).is_some_and(|(_, pages)| pages.contains(&iova_page))
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

/// Sizes of what one refusal is about, in pages of IOVAs: a leaf table, a first-level table, all four.
const SIZES: [u32; 3] = [512, 1 << 18, 1 << 20];

/// Tables that the engine refused, by the pages of IOVAs that they are about.
#[derive(Clone, Debug, Default)]
pub struct RefusedTables {
    /// Roots, first page, and one of [`SIZES`] of which the first page is a multiple.
    tables: FxHashSet<(Roots, u32, u32)>,
}

impl RefusedTables {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Whether page `iova_page` of the tables of `roots` is in one of them.
    pub fn contains(&self, roots: Roots, iova_page: u32) -> bool {
        !self.tables.is_empty()
            && SIZES.iter().any(|&size| self.tables.contains(&(roots, iova_page & !(size - 1), size)))
    }

    /// All that `roots` leads to is refused.
    pub fn insert_all(&mut self, roots: Roots) {
        self.tables.insert((roots, 0, 1 << 20));
    }

    /// A table that maps page `iova_page` is refused: a first-level one or a leaf table.
    pub fn insert(&mut self, roots: Roots, iova_page: u32, is_first_level: bool) {
        let size = if is_first_level { 1 << 18 } else { 512 };
        self.tables.insert((roots, iova_page & !(size - 1), size));
    }

    /// Keeps those of the sets of tables for which `stays` holds.
    pub fn retain(&mut self, stays: impl Fn(&Roots) -> bool) {
        self.tables.retain(|(roots, ..)| stays(roots));
    }
}
