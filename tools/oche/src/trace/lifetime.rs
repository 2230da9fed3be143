//! What devices may reach, followed through the events: each mapping from the flush that made it to
//! the one that took it.
//!
//! Streaming: memory grows with what is mapped at once, not with the length of the trace. All views
//! stand on this model.
//!
//! The events name the stream that asked for the flush. Streams that share their tables (the two
//! DARTs of a USB controller, two functions behind one stream) share their mappings, so mappings
//! belong to a *space*: the streams with the same table root, as `attach` events show.

use oche_trace::record::Record;
use oche_types::addr::{Gfn, IovaPage};
use oche_types::dart::entry::Permission;
use oche_types::event::{Event, Kind};
use rustc_hash::FxHashMap;

use super::pages::PageEntry as _;
use mapping::Key;
use table::{Slot, Table};

mod mapping;
mod table;

pub use mapping::{Mapping, PLACES, StreamPlace};

/// Mappings kept of spaces that were replaced while something was mapped at the same IOVA. More are
/// forgotten.
const MAX_REPLACED: usize = 1 << 16;

/// The change that an event makes to the mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappingChange {
    /// Nothing that is mapped.
    None,
    /// A mapping began; `over` was there and had not been taken away.
    Mapped {
        /// The new one.
        mapping: Mapping,
        /// The one in its way.
        over: Option<Mapping>,
    },
    /// A device may do something else with a page than before.
    Permission {
        /// The mapping as it is now.
        mapping: Mapping,
        /// The device's permission before.
        before: Permission,
    },
    /// A mapping ended, or one that was made before the trace began.
    Unmapped {
        /// The stream.
        at: StreamPlace,
        /// The IOVA.
        iova: IovaPage,
        /// The mapping that was there.
        mapping: Option<Mapping>,
    },
}

/// The mappings there are at one moment of a trace.
#[derive(Debug)]
pub struct Lifetimes {
    live: Table,
    /// Mappings of a space that was replaced, until it is taken apart.
    replaced: FxHashMap<(Key, Gfn), Mapping>,
    /// By stream: the space's number, which is that of one of its members.
    spaces: Vec<u16>,
    /// By stream: the page of its table root, while it translates.
    roots: Vec<Option<Gfn>>,
    /// By CPU: flushes so far.
    flushes: [u32; 256],
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            live: Table::default(),
            replaced: FxHashMap::default(),
            spaces: (0..PLACES as u16).collect(),
            roots: vec![None; PLACES],
            flushes: [0; 256],
        }
    }
}

impl Lifetimes {
    /// Follows `record`.
    pub fn apply(&mut self, record: &Record) -> MappingChange {
        match record.kind() {
            Some(Kind::Map) => self.map(record),
            Some(Kind::Unmap) => self.unmap(record),
            Some(Kind::Permission) => self.permit(record),
            Some(Kind::Flush) if record.dart().is_some() => {
                self.flush(record);
                MappingChange::None
            }
            Some(Kind::Attach) => {
                if let Some(Event::Attach { dart, stream, root }) = record.event() {
                    self.attach(StreamPlace::new(dart, stream), root);
                }
                MappingChange::None
            }
            _ => MappingChange::None,
        }
    }

    /// Follows `record`, of a page mapped.
    #[inline]
    pub(super) fn map(&mut self, record: &Record) -> MappingChange {
        let slot = Slot { made: *record, flush: self.flushes[usize::from(record.cpu())] };
        let Some(mapping) = slot.mapping() else { return MappingChange::None };
        let key = self.key(mapping.owner, mapping.iova);
        let over = self.live.insert(key, slot);
        let over = if over.is_empty() { None } else { self.replace(key, over) };
        MappingChange::Mapped { mapping, over }
    }

    /// Follows `record`, of a page unmapped.
    #[inline]
    pub(super) fn unmap(&mut self, record: &Record) -> MappingChange {
        let Some(Event::Unmap { at, page }) = record.event() else { return MappingChange::None };
        let mapping = self.remove(at.into(), at.iova, page);
        MappingChange::Unmapped { at: at.into(), iova: at.iova, mapping }
    }

    /// Follows `record`, of a permission that changed.
    pub(super) fn permit(&mut self, record: &Record) -> MappingChange {
        let Some(Event::Permission { at, page, permission }) = record.event() else {
            return MappingChange::None;
        };
        let key = self.key(at.into(), at.iova);
        let Some(slot) = self.live.get(key).filter(|slot| slot.page() == page).copied() else {
            return MappingChange::None;
        };
        let Some((before, slot)) = slot.mapping().zip(slot.with(permission)) else {
            return MappingChange::None;
        };
        self.live.insert(key, slot);
        let mapping = Mapping { permission, ..before };
        MappingChange::Permission { mapping, before: before.permission }
    }

    /// Follows `record`, of a flush that begins.
    #[inline]
    pub(super) fn flush(&mut self, record: &Record) {
        let flushes = &mut self.flushes[usize::from(record.cpu())];
        *flushes = flushes.wrapping_add(1);
    }

    /// The mapping at `iova` for `place`.
    pub fn at(&self, place: StreamPlace, iova: IovaPage) -> Option<Mapping> {
        self.live.get(self.key(place, iova))?.mapping()
    }

    /// All mappings, in no order.
    pub fn iter(&self) -> impl Iterator<Item = Mapping> {
        self.live.iter().filter_map(Slot::mapping).chain(self.replaced.values().copied())
    }

    /// All mappings, by stream and IOVA.
    pub fn sorted(&self) -> Vec<Mapping> {
        let mut all: Vec<Mapping> = self.iter().collect();
        all.sort_by_key(|mapping| (mapping.owner, mapping.iova.0, mapping.since.time));
        all
    }

    /// Whether `mapping` was made in the flush under way on `cpu`.
    pub fn is_of_current_flush(&self, mapping: &Mapping, cpu: u8) -> bool {
        mapping.since.cpu == cpu && mapping.flush == self.flushes[usize::from(cpu)]
    }

    /// How many pages are mapped.
    pub fn len(&self) -> usize {
        self.live.len() + self.replaced.len()
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The mappings of the space that `place` belongs to.
    pub fn of_space(&self, place: StreamPlace) -> impl Iterator<Item = Mapping> {
        self.live.of_space(self.space(place)).filter_map(Slot::mapping)
    }

    /// Whether the two streams share their mappings.
    pub fn share(&self, one: StreamPlace, other: StreamPlace) -> bool {
        self.space(one) == self.space(other)
    }

    /// The number of the space that `place` belongs to, below [`PLACES`].
    #[inline]
    pub fn space(&self, place: StreamPlace) -> u16 {
        self.spaces.get(place.index()).copied().unwrap_or(place.0)
    }

    /// The page of the table root through which `place` translates.
    pub fn root(&self, place: StreamPlace) -> Option<Gfn> {
        self.roots.get(place.index()).copied().flatten()
    }

    /// Streams that share `place`'s mappings, itself left out.
    pub fn partners(&self, place: StreamPlace) -> impl Iterator<Item = StreamPlace> {
        let space = self.space(place);
        let others = (0..PLACES as u16).map(StreamPlace).filter(move |other| *other != place);
        others.filter(move |other| self.space(*other) == space)
    }

    #[inline]
    fn key(&self, place: StreamPlace, iova: IovaPage) -> Key {
        Key { space: self.space(place), iova: iova.0 }
    }

    /// Keeps `over`, which a new mapping took the place of, until it is unmapped.
    #[cold]
    fn replace(&mut self, key: Key, over: Slot) -> Option<Mapping> {
        let over = over.mapping()?;
        if self.replaced.len() < MAX_REPLACED {
            self.replaced.insert((key, over.page), over);
        }
        Some(over)
    }

    /// Takes the mapping of `page` away. Where a space takes another's place, the new one's
    /// mappings come before the old one's go, so the page decides which is meant.
    #[inline]
    fn remove(&mut self, place: StreamPlace, iova: IovaPage, page: Gfn) -> Option<Mapping> {
        let key = self.key(place, iova);
        if !self.replaced.is_empty() {
            let is_live = self.live.get(key).is_some_and(|slot| slot.page() == page);
            if !is_live && let Some(mapping) = self.replaced.remove(&(key, page)) {
                return Some(mapping);
            }
        }
        self.live.remove(key).mapping()
    }

    fn attach(&mut self, place: StreamPlace, root: Option<Gfn>) {
        let index = place.index();
        let Some(known) = self.roots.get_mut(index) else { return };
        *known = root;
        let sharer = root.and_then(|root| {
            let mut others = self.roots.iter().enumerate().filter(|(other, _)| *other != index);
            others.find(|(_, of)| **of == Some(root)).map(|(other, _)| other)
        });
        let space = match sharer {
            Some(other) => self.spaces.get(other).copied().unwrap_or(place.0),
            None => self.unshared(place),
        };
        let before = std::mem::replace(&mut self.spaces[index], space);
        // Its own mappings, made before the trace knew whose tables they are in, go with it.
        if before != space && before == place.0 && !self.spaces.contains(&before) {
            let moved: Vec<Slot> = self.live.of_space(before).copied().collect();
            for slot in moved {
                let iova = slot.iova().0;
                self.live.remove(Key { space: before, iova });
                self.live.insert(Key { space, iova }, slot);
            }
        }
    }

    /// A space of `place` alone: the one that it has, if no other shares that.
    fn unshared(&self, place: StreamPlace) -> u16 {
        let space = self.space(place);
        let is_alone = self.spaces.iter().filter(|other| **other == space).count() == 1;
        let is_free = |number: &u16| !self.spaces.contains(number);
        if is_alone { space } else { (0..PLACES as u16).find(is_free).unwrap_or(place.0) }
    }
}

#[cfg(test)]
mod tests;
