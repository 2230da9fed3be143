//! The book of granules: what Oche made of each, independent of what the guest's tables say by now.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use oche_types::Invariant;
use oche_types::addr::{Frame, Gfn, Granule, SLOTS};
use oche_types::dart::entry::{Leaf, Permission};

use crate::heap::bytes_of;

/// Granules of one leaf table of the guest: 2 MiB of IOVA space.
const GRANULES: usize = 128;
/// Chapters of a domain: 32-bit IOVAs.
const CHAPTERS: usize = 2048;
/// No chapter.
const NO_CHAPTER: u32 = u32::MAX;

/// How a granule is backed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Not at all: devices fault.
    Empty,
    /// By the frame that its four pages are, at home.
    Direct(Frame),
    /// By a frame of the pool.
    Composed(Frame),
}

/// A mapped slot of a granule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The guest page.
    pub(crate) page: Gfn,
    /// What the guest allowed.
    pub(crate) permission: Permission,
    /// Whether the slot is a further copy of a page that CPUs reach elsewhere.
    pub(crate) is_replica: bool,
    /// Whether the slot holds the page's bytes yet; a replica planned in a batch under way does not.
    pub(crate) is_filled: bool,
}

impl Slot {
    /// What the guest asked for.
    pub(crate) fn leaf(self) -> Leaf {
        Leaf { page: self.page, permission: self.permission, whole_page: true }
    }
}

/// One granule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) form: Form,
    pub(crate) slots: [Option<Slot>; SLOTS],
}

impl Record {
    /// A granule of which nothing is mapped.
    pub(crate) const EMPTY: Self = Self { form: Form::Empty, slots: [None; SLOTS] };

    /// What any slot allows.
    pub(crate) fn permission(&self) -> Permission {
        self.slots.iter().flatten().fold(Permission::default(), |all, slot| all.union(slot.permission))
    }

    /// What is mapped in slot `index`, which is mapped.
    pub(crate) fn mapped_mut(&mut self, index: usize) -> &mut Slot {
        self.slots.get_mut(index).and_then(Option::as_mut).must("the slot is mapped")
    }

    /// Whether no slot is mapped.
    pub(crate) fn is_vacant(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }
}

/// All granules that are not empty, of all domains, in chapters of a fixed number.
#[derive(Debug)]
pub(crate) struct Book {
    chapters: Vec<Chapter>,
    free: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Chapter {
    records: [Record; GRANULES],
    used: u8,
}

/// The chapters of one domain.
#[derive(Debug)]
pub(crate) struct Index(Box<[u32; CHAPTERS]>);

impl Index {
    /// No chapter yet.
    pub(crate) fn new() -> Self {
        Self(Box::new([NO_CHAPTER; CHAPTERS]))
    }

    /// Bytes of heap that an index takes.
    pub(crate) const BYTES: usize = bytes_of::<[u32; CHAPTERS]>(1);

    /// Whether there is no chapter.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|chapter| *chapter == NO_CHAPTER)
    }
}

impl Book {
    /// Room for `chapters` times 2 MiB of IOVA space in which something is mapped.
    pub(crate) fn new(chapters: usize) -> Self {
        let chapters = chapters.min(NO_CHAPTER as usize);
        let empty = Chapter { records: [Record::EMPTY; GRANULES], used: 0 };
        Self { chapters: alloc::vec![empty; chapters], free: (0..chapters as u32).rev().collect() }
    }

    /// Bytes of heap that [`Self::new`] takes.
    pub(crate) const fn bytes(chapters: usize) -> usize {
        bytes_of::<Chapter>(chapters) + bytes_of::<u32>(chapters)
    }

    /// Chapter `number` of a domain, if anything is written there.
    fn chapter(&self, index: &Index, number: usize) -> Option<&Chapter> {
        let number = *index.0.get(number).must("an IOVA has 32 bits");
        (number != NO_CHAPTER)
            .then(|| self.chapters.get(number as usize).must("a chapter's number is the book's"))
    }

    /// What is written of `granule`.
    pub(crate) fn get(&self, index: &Index, granule: Granule) -> Record {
        let (number, record) = position(granule);
        match self.chapter(index, number) {
            Some(chapter) => *chapter.records.get(record).must("a granule has a place in its chapter"),
            None => Record::EMPTY,
        }
    }

    /// The first of `granules` of which something is mapped, with its record. Where there is no chapter nothing is looked at.
    pub(crate) fn find(&self, index: &Index, granules: RangeInclusive<Granule>) -> Option<(Granule, Record)> {
        let mut next = *granules.start();
        while next <= *granules.end() {
            let (number, first) = position(next);
            let chapter = self.chapter(index, number);
            let records = chapter.and_then(|chapter| chapter.records.get(first..)).unwrap_or_default();
            if let Some((found, record)) = (next.0..).zip(records).find(|(_, record)| !record.is_vacant()) {
                return granules.contains(&Granule(found)).then_some((Granule(found), *record));
            }
            next = Granule(((number + 1) * GRANULES) as u32);
        }
        None
    }

    /// Makes sure that [`Self::set`] can write of `granule`. False: there is no chapter left.
    #[must_use]
    pub(crate) fn prepare(&mut self, index: &mut Index, granule: Granule) -> bool {
        let (chapter, _) = position(granule);
        let number = index.0.get_mut(chapter).must("an IOVA has 32 bits");
        if *number == NO_CHAPTER {
            let Some(free) = self.free.pop() else { return false };
            *number = free;
        }
        true
    }

    /// Writes `new` of a `granule` that was prepared. A chapter goes back when its last record is emptied.
    pub(crate) fn set(&mut self, index: &mut Index, granule: Granule, new: Record) {
        let (chapter, record) = position(granule);
        let number = index.0.get(chapter).must("an IOVA has 32 bits");
        let chapter = self.chapters.get_mut(*number as usize).must("a granule is written only when prepared");
        let old = chapter.records.get_mut(record).must("a granule has a place in its chapter");
        let was_used = old.form != Form::Empty;
        let is_used = new.form != Form::Empty;
        *old = new;
        chapter.used = chapter.used + u8::from(is_used) - u8::from(was_used);
        self.release_unused(index, granule);
    }

    /// Gives back the chapter of `granule` if nothing is written in it.
    pub(crate) fn release_unused(&mut self, index: &mut Index, granule: Granule) {
        let (chapter, _) = position(granule);
        let number = index.0.get_mut(chapter).must("an IOVA has 32 bits");
        if self.chapters.get(*number as usize).is_some_and(|chapter| chapter.used == 0) {
            self.free.push(*number);
            *number = NO_CHAPTER;
        }
    }
}

fn position(granule: Granule) -> (usize, usize) {
    let granule = granule.0 as usize;
    (granule / GRANULES, granule % GRANULES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chapter_goes_back_with_its_last_record() {
        let mut book = Book::new(1);
        let (mut one, mut other) = (Index::new(), Index::new());
        let record = Record { form: Form::Direct(Frame(9)), slots: [None; SLOTS] };
        assert!(book.prepare(&mut one, Granule(130)));
        book.set(&mut one, Granule(130), record);
        assert!(!book.prepare(&mut other, Granule(0)));
        assert_eq!(book.get(&one, Granule(130)), record);
        assert_eq!(book.get(&one, Granule(2)), Record::EMPTY);
        book.set(&mut one, Granule(130), Record::EMPTY);
        assert!(book.prepare(&mut other, Granule(0)));
    }
}
