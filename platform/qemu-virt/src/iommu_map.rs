//! The map from PCI requesters to streams of the emulated DARTs.
//!
//! On virt, a PCI requester ID (bus, device, function: 8, 5 and 3 bits) is the SMMU's StreamID.
//! Requesters that share a stream are attached, blocked and reported together.

use alloc::vec::Vec;

use oche_types::dart::stream::{DartId, StreamId};

/// Most emulated DARTs: two by the slot rule, one more for a map.
pub const MAX_DARTS: u8 = 3;
/// Streams of a t8020 DART.
pub const STREAMS: u8 = 16;
/// Most entries in `oche.iommu-map`.
pub const MAX_MAPPINGS: usize = 64;

/// One entry of `oche.iommu-map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// PCI requester ID: bus << 8 | device << 3 | function.
    pub requester: u16,
    /// The DART.
    pub dart: u8,
    /// Its stream, below 16.
    pub stream: u8,
}

/// The value of `oche.iommu-map`: the streams of requesters.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    entries: [Mapping; MAX_MAPPINGS],
    length: usize,
}

impl Default for Choice {
    /// Creates a value without entries, so that the slot rule applies.
    fn default() -> Self {
        Self { entries: [Mapping { requester: 0, dart: 0, stream: 0 }; MAX_MAPPINGS], length: 0 }
    }
}

impl Choice {
    /// The entries of the option. If there are none, [`Self::stream_of`] follows the slot rule.
    pub fn entries(&self) -> &[Mapping] {
        self.entries.get(..self.length).unwrap_or(&[])
    }

    /// The stream of `requester`. By the slot rule, all functions of PCI slot d of bus 0 are DART d
    /// / 16, stream d % 16.
    pub fn stream_of(&self, requester: u16) -> Option<Mapping> {
        if self.length == 0 {
            let slot = (requester >> 3) as u8 & 31;
            return (requester < 0x100).then_some(Mapping {
                requester,
                dart: slot / STREAMS,
                stream: slot % STREAMS,
            });
        }
        self.entries().iter().find(|entry| entry.requester == requester).copied()
    }

    /// Parses the option's value: comma-separated `RID:DART:STREAM`, with RID in hexadecimal.
    pub fn parse(text: &str) -> Option<Self> {
        let mut map = Self::default();
        for entry in text.split(',') {
            let mut parts = entry.split(':');
            let requester = parts.next()?.trim().trim_start_matches("0x");
            let requester = u16::from_str_radix(requester, 16).ok()?;
            let dart = parts.next()?.trim().parse().ok().filter(|dart| *dart < MAX_DARTS)?;
            let stream = parts.next()?.trim().parse().ok().filter(|stream| *stream < STREAMS)?;
            if parts.next().is_some() {
                return None;
            }
            *map.entries.get_mut(map.length)? = Mapping { requester, dart, stream };
            map.length += 1;
        }
        Some(map)
    }
}

/// Number of devices and functions on a bus.
const PLACES_ON_BUS: u16 = 256;

/// A PCI requester ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequesterId(pub u16);

impl RequesterId {
    /// The bus number.
    pub fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Device and function number, below 256.
    pub fn place_on_bus(self) -> usize {
        usize::from(self.0 & 0xff)
    }

    /// Function 0 of the same device.
    pub fn first_function(self) -> Self {
        Self(self.0 & !7)
    }
}

/// A requester and its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The requester.
    pub requester: RequesterId,
    /// Its emulated DART.
    pub dart: DartId,
    /// Its stream of that DART.
    pub stream: StreamId,
}

/// All requesters that may do DMA, in the order of their IDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IommuMap(Vec<Connection>);

impl IommuMap {
    /// Builds the map from the option, or by the slot rule.
    ///
    /// Of two entries for one requester, the first is used, as in the guest's FDT.
    pub fn of(choice: &Choice) -> Self {
        let chosen = choice.entries().iter().map(|mapping| mapping.requester);
        let ruled = if choice.entries().is_empty() { 0..PLACES_ON_BUS } else { 0..0 };
        let mut connections: Vec<Connection> = Vec::new();
        for mapping in chosen.chain(ruled).filter_map(|requester| choice.stream_of(requester)) {
            let requester = RequesterId(mapping.requester);
            let dart = DartId::new(usize::from(mapping.dart));
            let dart = dart.expect("invariant: a mapping names a DART that there may be");
            let stream = StreamId::new(usize::from(mapping.stream));
            let stream = stream.expect("invariant: a mapping names one of 16 streams");
            if let Err(place) =
                connections.binary_search_by_key(&requester, |known| known.requester)
            {
                connections.insert(place, Connection { requester, dart, stream });
            }
        }
        Self(connections)
    }

    /// All entries, by requester ID.
    pub fn connections(&self) -> &[Connection] {
        &self.0
    }

    /// The stream of `requester`, if it is on the map.
    pub fn stream_of(&self, requester: RequesterId) -> Option<(DartId, StreamId)> {
        let place = self.0.binary_search_by_key(&requester, |known| known.requester).ok()?;
        self.0.get(place).map(|connection| (connection.dart, connection.stream))
    }

    /// The requesters that share `stream` of `dart`, lowest first.
    pub fn requesters(&self, dart: DartId, stream: StreamId) -> impl Iterator<Item = RequesterId> {
        self.0
            .iter()
            .filter(move |connection| connection.dart == dart && connection.stream == stream)
            .map(|connection| connection.requester)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(dart: usize, stream: usize) -> (DartId, StreamId) {
        (DartId::new(dart).unwrap(), StreamId::new(stream).unwrap())
    }

    fn chosen(text: &str) -> IommuMap {
        IommuMap::of(&Choice::parse(text).expect("it is good"))
    }

    #[test]
    fn the_choice_follows_the_slots_until_it_is_given() {
        let choice = Choice::default();
        let third = choice.stream_of(0x98).expect("slot 19");
        assert_eq!((third.dart, third.stream), (1, 3));
        assert_eq!(choice.stream_of(0x100), None);
        let choice = Choice::parse("0x08:0:1,10:1:15").expect("it is good");
        assert_eq!(choice.stream_of(0x10), Some(Mapping { requester: 0x10, dart: 1, stream: 15 }));
        assert_eq!(choice.stream_of(0x98), None);
    }

    #[test]
    fn bad_choices_are_refused_whole() {
        for bad in ["", "8", "8:0", "8:0:16", "8:3:0", "8:0:1:2", "zz:0:0", "8:0:0,"] {
            assert!(Choice::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_map_says_who_is_where_in_both_directions() {
        let map = chosen("0x10:0:2,8:0:1,0x1ff:1:15,0x11:0:2");
        assert_eq!(map.stream_of(RequesterId(8)), Some(place(0, 1)));
        assert_eq!(map.stream_of(RequesterId(0x1ff)), Some(place(1, 15)));
        assert_eq!(map.stream_of(RequesterId(0)), None);
        let (dart, stream) = place(0, 2);
        let sharing: Vec<_> = map.requesters(dart, stream).collect();
        assert_eq!(sharing, [RequesterId(0x10), RequesterId(0x11)]);
    }

    #[test]
    fn without_a_choice_every_function_of_a_slot_has_the_slots_stream() {
        let map = IommuMap::of(&Choice::default());
        assert_eq!(map.stream_of(RequesterId(3 << 3 | 5)), Some(place(0, 3)));
        assert_eq!(map.stream_of(RequesterId(17 << 3)), Some(place(1, 1)));
        assert_eq!(map.stream_of(RequesterId(0x100)), None);
        assert_eq!(map.connections().len(), 256);
    }

    #[test]
    fn a_requester_named_twice_is_where_it_was_named_first() {
        let map = chosen("8:0:1,8:1:2");
        assert_eq!(map.stream_of(RequesterId(8)), Some(place(0, 1)));
        assert_eq!(map.connections().len(), 1);
    }
}
