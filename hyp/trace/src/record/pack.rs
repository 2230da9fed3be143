//! Events into records' words and back, as the table of [`events!`](oche_types::events!) places
//! their fields.

use oche_types::addr::{Gfn, Hfn, HostGranule, IovaPage};
use oche_types::dart::entry::Permission;
use oche_types::dart::stream::{DartId, StreamId, StreamSet};
use oche_types::event::{Event, Kind, Place, Placement, Refusal, WatchHow};
use oche_types::events;

/// Where no DART or no stream is meant.
const NONE: u8 = 0xff;

/// The event's part of a record.
pub(super) struct Packed {
    pub(super) kind: u8,
    pub(super) dart: u8,
    pub(super) stream: u8,
    pub(super) detail: u64,
    pub(super) payload: u64,
    /// Word 2: all of it, where the event has it.
    pub(super) code: Option<u64>,
}

/// A field's value as bits of a word.
trait Bits: Sized {
    /// The value, as far as it fits into bits up to `mask`.
    fn to_bits(self, mask: u64) -> u64;

    /// The value, or `None` where this version does not know it.
    fn from_bits(bits: u64) -> Option<Self>;
}

/// Numbers that do not fit are the most that does.
macro_rules! numbers {
    ($($type:ty),*) => {$(
        impl Bits for $type {
            #[inline]
            fn to_bits(self, mask: u64) -> u64 {
                u64::from(self).min(mask)
            }

            #[inline]
            fn from_bits(bits: u64) -> Option<Self> {
                Some(bits as Self)
            }
        }
    )*};
}
numbers!(u8, u16, u32, u64);

/// Names of pages, and sets, lose their upper bits.
macro_rules! names {
    ($($type:ident: $inner:ty),*) => {$(
        impl Bits for $type {
            #[inline]
            fn to_bits(self, mask: u64) -> u64 {
                u64::from(self.0) & mask
            }

            #[inline]
            fn from_bits(bits: u64) -> Option<Self> {
                Some(Self(bits as $inner))
            }
        }
    )*};
}
names!(Gfn: u32, Hfn: u32, HostGranule: u32, IovaPage: u32, StreamSet: u16);

macro_rules! numbered {
    ($($type:ident),*) => {$(
        impl Bits for $type {
            #[inline]
            fn to_bits(self, mask: u64) -> u64 {
                u64::from(self as u8) & mask
            }

            #[inline]
            fn from_bits(bits: u64) -> Option<Self> {
                Self::from_number(bits as u8)
            }
        }
    )*};
}
numbered!(Placement, Refusal, WatchHow);

impl Bits for bool {
    #[inline]
    fn to_bits(self, mask: u64) -> u64 {
        u64::from(self) & mask
    }

    #[inline]
    fn from_bits(bits: u64) -> Option<Self> {
        Some(bits != 0)
    }
}

impl Bits for Permission {
    #[inline]
    fn to_bits(self, mask: u64) -> u64 {
        (u64::from(self.read) | u64::from(self.write) << 1) & mask
    }

    #[inline]
    fn from_bits(bits: u64) -> Option<Self> {
        Some(Self { read: bits & 1 != 0, write: bits & 2 != 0 })
    }
}

const fn mask(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}

/// Puts fields into their places.
impl Packed {
    #[inline]
    fn new(kind: Kind) -> Self {
        Self { kind: kind.number(), dart: NONE, stream: NONE, detail: 0, payload: 0, code: None }
    }

    #[inline]
    fn dart(self, dart: DartId) -> Self {
        Self { dart: dart.index() as u8, ..self }
    }

    #[inline]
    fn stream(self, stream: StreamId) -> Self {
        Self { stream: stream.index() as u8, ..self }
    }

    #[inline]
    fn at(self, at: Place, low: u32, bits: u32) -> Self {
        self.dart(at.dart).stream(at.stream).payload(at.iova, low, bits)
    }

    #[inline]
    fn detail(mut self, value: impl Bits, low: u32, bits: u32) -> Self {
        self.detail |= value.to_bits(mask(bits)) << low;
        self
    }

    #[inline]
    fn payload(mut self, value: impl Bits, low: u32, bits: u32) -> Self {
        self.payload |= value.to_bits(mask(bits)) << low;
        self
    }

    #[inline]
    fn streams(self, streams: StreamSet, low: u32, bits: u32) -> Self {
        self.payload(streams, low, bits)
    }

    #[inline]
    fn optional(self, value: Option<impl Bits>, flag: u32, low: u32, bits: u32) -> Self {
        let packed = self.detail(value.is_some(), flag, 1);
        match value {
            Some(value) => packed.payload(value, low, bits),
            None => packed,
        }
    }

    #[inline]
    fn words(self, words: [u64; 2]) -> Self {
        Self { code: Some(words[0]), payload: words[1], ..self }
    }
}

/// Takes fields from their places.
struct Reader<'a>(&'a Packed);

impl Reader<'_> {
    #[inline]
    fn dart(&self) -> Option<DartId> {
        DartId::new(usize::from(self.0.dart))
    }

    #[inline]
    fn stream(&self) -> Option<StreamId> {
        StreamId::new(usize::from(self.0.stream))
    }

    #[inline]
    fn at(&self, low: u32, bits: u32) -> Option<Place> {
        Some(Place { dart: self.dart()?, stream: self.stream()?, iova: self.payload(low, bits)? })
    }

    #[inline]
    fn detail<T: Bits>(&self, low: u32, bits: u32) -> Option<T> {
        T::from_bits(self.0.detail >> low & mask(bits))
    }

    #[inline]
    fn payload<T: Bits>(&self, low: u32, bits: u32) -> Option<T> {
        T::from_bits(self.0.payload >> low & mask(bits))
    }

    #[inline]
    fn streams(&self, low: u32, bits: u32) -> Option<StreamSet> {
        self.payload(low, bits)
    }

    #[inline]
    fn optional<T: Bits>(&self, flag: u32, low: u32, bits: u32) -> Option<Option<T>> {
        if self.detail(flag, 1)? { self.payload(low, bits).map(Some) } else { Some(None) }
    }

    #[inline]
    fn words(&self) -> Option<[u64; 2]> {
        Some([self.0.code?, self.0.payload])
    }
}

/// Generates [`pack`] and [`unpack`].
macro_rules! encoding {
    ($(
        $(#[$doc:meta])*
        $kind:ident = $number:literal, $name:literal {
            $($(#[$field_doc:meta])* $field:ident: $type:ty = $place:ident($($at:tt)*),)*
        }
        $(also $also:ident: $also_type:ty = $also_place:ident($($also_at:tt)*) from $value:expr;)?
        reach($($reach:tt)*)
        text($($text:tt)*)
        counts($($counts:tt)*)
    )*) => {
        /// The event's part of a record.
        #[inline(always)]
        pub(super) fn pack(event: &Event) -> Packed {
            match *event {
                $(Event::$kind { $($field),* } => {
                    Packed::new(Kind::$kind)
                        $(.$place($field, $($at)*))*
                        $(.$also_place($value, $($also_at)*))?
                })*
            }
        }

        /// What happened, or `None` where this version does not know the kind or one of its
        /// numbers.
        #[inline]
        pub(super) fn unpack(packed: &Packed) -> Option<Event> {
            let reader = Reader(packed);
            Some(match Kind::from_number(packed.kind)? {
                $(Kind::$kind => Event::$kind { $($field: reader.$place($($at)*)?),* },)*
            })
        }
    };
}

events!(encoding);
