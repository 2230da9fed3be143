//! The mappings that are live, by space and IOVA.

use oche_trace::record::Record;
use oche_types::addr::{Gfn, IovaPage};
use oche_types::dart::entry::Permission;
use oche_types::event::Event;
use rustc_hash::FxHashMap;

use super::super::pages::{PageEntry, PageTable};
use super::mapping::{Key, Mapping, PLACES};

/// Pages of a DART's address space: an IOVA has 32 bits.
const IOVA_PAGES: u32 = 1 << 20;

/// A mapping as the event that made it: what copies as whole words, and is understood only when
/// asked for. By default none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot {
    pub(super) made: Record,
    /// As [`Mapping::flush`].
    pub(super) flush: u32,
}

impl PageEntry for Slot {
    #[inline]
    fn is_empty(&self) -> bool {
        self.made.kind_number() == 0
    }
}

impl Slot {
    #[inline]
    pub(super) fn mapping(&self) -> Option<Mapping> {
        let Some(Event::Map { at, page, permission, placement }) = self.made.event() else {
            return None;
        };
        let (owner, since) = (at.into(), self.made.stamp());
        Some(Mapping {
            owner,
            iova: at.iova,
            page,
            permission,
            placement,
            since,
            flush: self.flush,
        })
    }

    /// The mapping with another permission.
    pub(super) fn with(&self, permission: Permission) -> Option<Self> {
        let Some(Event::Map { at, page, placement, .. }) = self.made.event() else { return None };
        let made = Record::new(self.made.stamp(), &Event::Map { at, page, permission, placement });
        Some(Self { made, ..*self })
    }

    pub(super) fn iova(&self) -> IovaPage {
        IovaPage((self.made.payload() >> 32) as u32)
    }

    pub(super) fn page(&self) -> Gfn {
        Gfn(self.made.payload() as u32)
    }
}

/// The mappings of all spaces.
#[derive(Debug, Default)]
pub(super) struct Table {
    spaces: Vec<PageTable<Slot>>,
    /// Those at addresses that no DART has: only a damaged trace names such.
    beyond: FxHashMap<Key, Slot>,
    live: usize,
}

impl Table {
    pub(super) fn get(&self, key: Key) -> Option<&Slot> {
        if key.iova >= IOVA_PAGES {
            return self.beyond.get(&key);
        }
        self.spaces.get(usize::from(key.space))?.get(key.iova)
    }

    /// Puts `slot` in its place; what was there.
    #[inline]
    pub(super) fn insert(&mut self, key: Key, slot: Slot) -> Slot {
        let over = if key.iova >= IOVA_PAGES {
            self.beyond.insert(key, slot)
        } else {
            self.space(key.space).update(key.iova, |place| std::mem::replace(place, slot))
        };
        let over = over.unwrap_or_default();
        self.live += usize::from(over.is_empty());
        over
    }

    #[inline]
    pub(super) fn remove(&mut self, key: Key) -> Slot {
        let gone = if key.iova >= IOVA_PAGES {
            self.beyond.remove(&key)
        } else {
            let space = self.spaces.get_mut(usize::from(key.space));
            space.and_then(|space| space.update(key.iova, std::mem::take))
        };
        let gone = gone.unwrap_or_default();
        self.live = self.live.saturating_sub(usize::from(!gone.is_empty()));
        gone
    }

    pub(super) fn len(&self) -> usize {
        self.live
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.spaces.iter().flat_map(PageTable::iter).chain(self.beyond.values())
    }

    /// Those of one space, in no order.
    pub(super) fn of_space(&self, space: u16) -> impl Iterator<Item = &Slot> {
        let near = self.spaces.get(usize::from(space)).into_iter().flat_map(PageTable::iter);
        near.chain(
            self.beyond.iter().filter(move |(key, _)| key.space == space).map(|(_, slot)| slot),
        )
    }

    #[inline]
    fn space(&mut self, space: u16) -> &mut PageTable<Slot> {
        let index = usize::from(space).min(PLACES - 1);
        if self.spaces.len() <= index {
            self.spaces.resize_with(index + 1, PageTable::default);
        }
        &mut self.spaces[index]
    }
}
