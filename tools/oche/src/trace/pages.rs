//! A table by page number whose memory follows what is in it: arrays of neighbours, taken when the
//! first is filled and given back when the last is emptied.

use std::iter;

/// Pages of a leaf: what a driver maps side by side lies in few of them, and a page that lies alone
/// costs little.
const LEAF_PAGES: usize = 16;
/// Page numbers that have a place: those below 2^24, what a t8020 DART's 36-bit entries can name.
const PAGES: usize = 1 << 24;
/// Emptied leaves that are kept for the next ones: mapping and unmapping one page over and over
/// costs no allocation.
const MAX_SPARE: usize = 64;

/// An entry of the table; by default empty.
pub trait PageEntry: Copy + Default {
    /// Whether it is empty.
    fn is_empty(&self) -> bool;
}

impl<T: Copy> PageEntry for Option<T> {
    fn is_empty(&self) -> bool {
        self.is_none()
    }
}

#[derive(Clone, Debug)]
struct Leaf<T> {
    /// Entries that are not empty.
    used: usize,
    entries: [T; LEAF_PAGES],
}

/// A table of entries by page.
#[derive(Clone, Debug)]
pub struct PageTable<T> {
    leaves: Vec<Option<Box<Leaf<T>>>>,
    /// Leaves with nothing in them.
    spare: Vec<Box<Leaf<T>>>,
}

impl<T> Default for PageTable<T> {
    fn default() -> Self {
        Self { leaves: Vec::new(), spare: Vec::new() }
    }
}

impl<T: PageEntry> PageTable<T> {
    /// The entry of `page`, unless it is empty.
    #[inline]
    pub fn get(&self, page: u32) -> Option<&T> {
        let (leaf, place) = place(page);
        let entry = self.leaves.get(leaf)?.as_deref()?.entries.get(place)?;
        if entry.is_empty() { None } else { Some(entry) }
    }

    /// Lets `change` change what `page` holds. `None`: no page has that number.
    #[inline]
    pub fn update<R>(&mut self, page: u32, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        let (number, place) = place(page);
        if self.leaves.len() <= number {
            self.lengthen(number)?;
        }
        let slot = self.leaves.get_mut(number)?;
        let leaf = match slot {
            Some(leaf) => leaf,
            None => slot.insert(self.spare.pop().unwrap_or_else(Leaf::empty)),
        };
        let entry = leaf.entries.get_mut(place)?;
        let was_empty = entry.is_empty();
        let answer = change(entry);
        match (was_empty, entry.is_empty()) {
            (true, false) => leaf.used += 1,
            (false, true) => leaf.used = leaf.used.saturating_sub(1),
            _ => {}
        }
        if leaf.used == 0 {
            let leaf = slot.take();
            self.spare.extend(leaf.filter(|_| self.spare.len() < MAX_SPARE));
        }
        Some(answer)
    }

    /// Everything that is held, in the order of its pages.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let leaves = self.leaves.iter().flatten();
        leaves.flat_map(|leaf| leaf.entries.iter()).filter(|entry| !entry.is_empty())
    }

    #[cold]
    fn lengthen(&mut self, leaf: usize) -> Option<()> {
        if leaf >= PAGES / LEAF_PAGES {
            return None;
        }
        let missing = leaf + 1 - self.leaves.len();
        self.leaves.extend(iter::repeat_with(|| None).take(missing));
        Some(())
    }
}

impl<T: PageEntry> Leaf<T> {
    #[cold]
    fn empty() -> Box<Self> {
        Box::new(Self { used: 0, entries: [T::default(); LEAF_PAGES] })
    }
}

fn place(page: u32) -> (usize, usize) {
    (page as usize / LEAF_PAGES, page as usize % LEAF_PAGES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_is_found_until_it_is_taken_out() {
        let mut pages: PageTable<Option<u32>> = PageTable::default();
        for page in [0, 15, 16, 0xf_ffff, PAGES as u32 - 1] {
            assert_eq!(pages.update(page, |entry| entry.replace(page)), Some(None));
            assert_eq!(pages.get(page), Some(&Some(page)));
        }
        assert_eq!(pages.iter().flatten().count(), 5);
        assert_eq!(pages.get(1), None);
        assert_eq!(pages.update(15, Option::take), Some(Some(15)));
        assert_eq!(pages.get(15), None);
        assert_eq!(pages.get(0), Some(&Some(0)), "its neighbour stays");
    }

    #[test]
    fn a_number_that_no_page_has_is_refused() {
        let mut pages: PageTable<Option<u32>> = PageTable::default();
        assert_eq!(pages.update(PAGES as u32, |entry| entry.replace(1)), None);
        assert_eq!(pages.update(u32::MAX, |entry| entry.replace(1)), None);
        assert_eq!(pages.get(u32::MAX), None);
    }

    #[test]
    fn memory_follows_what_is_held() {
        let mut pages: PageTable<Option<u32>> = PageTable::default();
        for page in 0..1 << 20 {
            pages.update(page, |entry| entry.replace(page));
            pages.update(page, Option::take);
        }
        assert_eq!(pages.leaves.iter().flatten().count(), 0);
        assert_eq!(pages.spare.len(), 1);
    }
}
