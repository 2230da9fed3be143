//! Which requester is behind which stream of which virtual DART.
//!
//! On virt a PCI requester id (bus, device, function: 8, 5 and 3 bits) is the SMMU's StreamID as it is.
//! Several requesters may share a stream: they are attached, blocked and told of together.

use alloc::vec::Vec;

use oche_hyp::dart::stream::{DartId, MAX_DARTS, STREAMS, StreamId};

/// Devices on bus 0, each with up to eight functions.
const SLOTS: u16 = 32;
const FUNCTIONS: u16 = 8;

/// A PCI requester id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequesterId(pub u16);

impl RequesterId {
    /// The bus number.
    pub fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Device and function number: the id's place on its bus, below 256.
    pub fn place_on_bus(self) -> usize {
        usize::from(self.0 & 0xff)
    }
}

/// One requester and its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Who does the DMA.
    pub requester: RequesterId,
    /// The virtual DART that it is behind.
    pub dart: DartId,
    /// Its stream there.
    pub stream: StreamId,
}

/// Why a text is no map. The index counts the comma-separated items from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// The item is not `RID:DART:STREAM`.
    NotThreeNumbers(usize),
    /// The requester id is not a hexadecimal number of up to 16 bits.
    BadRequester(usize),
    /// The DART is not a decimal number below [`MAX_DARTS`].
    BadDart(usize),
    /// The stream is not a decimal number below [`STREAMS`].
    BadStream(usize),
    /// An item before names the same requester.
    RequesterTwice(usize),
}

/// All requesters that may do DMA, in the order of their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IommuMap(Vec<Connection>);

impl Default for IommuMap {
    /// PCI slot `d` of bus 0, every function, is stream `d % 16` of DART `d / 16`.
    fn default() -> Self {
        let connect = |place: u16| {
            let slot = usize::from(place / FUNCTIONS);
            let dart = DartId::new(slot / STREAMS)?;
            let stream = StreamId::new(slot % STREAMS)?;
            Some(Connection { requester: RequesterId(place), dart, stream })
        };
        Self((0..SLOTS * FUNCTIONS).filter_map(connect).collect())
    }
}

impl IommuMap {
    /// Reads comma-separated `RID:DART:STREAM`, the id in hexadecimal with or without `0x`.
    ///
    /// # Errors
    ///
    /// [`MapError`] with the index of the first item that is wrong.
    pub fn parse(text: &str) -> Result<Self, MapError> {
        let mut connections: Vec<Connection> = Vec::new();
        for (index, item) in text.split(',').enumerate() {
            let connection = parse_connection(item.trim(), index)?;
            match connections.binary_search_by_key(&connection.requester, |known| known.requester) {
                Ok(_) => return Err(MapError::RequesterTwice(index)),
                Err(place) => connections.insert(place, connection),
            }
        }
        Ok(Self(connections))
    }

    /// All connections, by requester id.
    pub fn connections(&self) -> &[Connection] {
        &self.0
    }

    /// How many virtual DARTs the map needs: one more than the highest that it names.
    pub fn darts(&self) -> usize {
        self.0.iter().map(|connection| connection.dart.index() + 1).max().unwrap_or(0)
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

fn parse_connection(item: &str, index: usize) -> Result<Connection, MapError> {
    let mut numbers = item.split(':');
    let (Some(requester), Some(dart), Some(stream), None) =
        (numbers.next(), numbers.next(), numbers.next(), numbers.next())
    else {
        return Err(MapError::NotThreeNumbers(index));
    };
    let digits = requester.strip_prefix("0x").unwrap_or(requester);
    let requester = u16::from_str_radix(digits, 16).map_err(|_| MapError::BadRequester(index))?;
    let dart = dart.parse().ok().and_then(DartId::new).ok_or(MapError::BadDart(index))?;
    let stream = stream.parse().ok().and_then(StreamId::new).ok_or(MapError::BadStream(index))?;
    Ok(Connection { requester: RequesterId(requester), dart, stream })
}

const _: () = assert!(SLOTS as usize <= MAX_DARTS * STREAMS);

#[cfg(test)]
mod tests {
    use super::*;

    fn place(dart: usize, stream: usize) -> (DartId, StreamId) {
        (DartId::new(dart).unwrap(), StreamId::new(stream).unwrap())
    }

    #[test]
    fn a_map_says_who_is_where_in_both_directions() {
        let map = IommuMap::parse("0x10:0:2, 8:0:1,0x1ff:1:15,0x11:0:2").unwrap();
        assert_eq!(map.stream_of(RequesterId(8)), Some(place(0, 1)));
        assert_eq!(map.stream_of(RequesterId(0x1ff)), Some(place(1, 15)));
        assert_eq!(map.stream_of(RequesterId(0)), None);
        let (dart, stream) = place(0, 2);
        let sharing: Vec<_> = map.requesters(dart, stream).collect();
        assert_eq!(sharing, [RequesterId(0x10), RequesterId(0x11)]);
        assert_eq!(map.darts(), 2);
    }

    #[test]
    fn without_a_text_every_function_of_a_slot_has_the_slots_stream() {
        let map = IommuMap::default();
        assert_eq!(map.stream_of(RequesterId(3 << 3 | 5)), Some(place(0, 3)));
        assert_eq!(map.stream_of(RequesterId(17 << 3)), Some(place(1, 1)));
        assert_eq!(map.stream_of(RequesterId(0x100)), None);
        assert_eq!((map.connections().len(), map.darts()), (256, 2));
    }

    #[test]
    fn a_text_that_is_no_map_is_refused_with_the_item_that_is_wrong() {
        assert_eq!(IommuMap::parse(""), Err(MapError::NotThreeNumbers(0)));
        assert_eq!(IommuMap::parse("8:0:1,9:0"), Err(MapError::NotThreeNumbers(1)));
        assert_eq!(IommuMap::parse("8:0:1:2"), Err(MapError::NotThreeNumbers(0)));
        assert_eq!(IommuMap::parse("0x10000:0:1"), Err(MapError::BadRequester(0)));
        assert_eq!(IommuMap::parse("8:32:1"), Err(MapError::BadDart(0)));
        assert_eq!(IommuMap::parse("8:0:16"), Err(MapError::BadStream(0)));
        assert_eq!(IommuMap::parse("8:0:1,0x8:0:2"), Err(MapError::RequesterTwice(1)));
    }
}
