//! Events that the engine reports.
//!
//! The events and their kinds are generated from the table in [`events!`](crate::events!).

mod table;

use crate::addr::{Gfn, Hfn, HostGranule, IovaPage};
use crate::dart::entry::Permission;
use crate::dart::stream::{DartId, StreamId, StreamSet};
use crate::events;

/// Declares [`Event`] and [`Kind`].
macro_rules! declare {
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
        /// An event: something that happened in the engine.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event {
            $($(#[$doc])* $kind {
                $($(#[$field_doc])* $field: $type,)*
            },)*
        }

        /// The kind of an event, without its fields. The numbers are part of the file format and
        /// never change their meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $kind = $number,)*
        }

        impl Kind {
            /// All kinds, by number.
            pub const ALL: [Self; [$($number),*].len()] = [$(Self::$kind),*];

            /// The kind of `event`.
            #[inline]
            pub fn of(event: &Event) -> Self {
                match event {
                    $(Event::$kind { .. } => Self::$kind,)*
                }
            }

            /// The kind with `number`, or `None` if this version does not know it.
            #[inline]
            pub fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$kind),)*
                    _ => None,
                }
            }

            /// The number in records.
            #[inline]
            pub fn number(self) -> u8 {
                self as u8
            }

            /// Its name in every output and in the commands of the control block.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

events!(declare);

/// Declares an enum whose values have a number in records and a name in every output.
macro_rules! numbered {
    ($(#[$outer:meta])* $type:ident {
        $($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal,)*
    }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum $type {
            $($(#[$doc])* $variant = $number,)*
        }

        impl $type {
            /// All of them, by number.
            pub const ALL: [Self; [$($number),*].len()] = [$(Self::$variant),*];

            /// The value with `number`, or `None` if this version does not know it.
            #[inline]
            pub fn from_number(number: u8) -> Option<Self> {
                Self::ALL.get(usize::from(number)).copied()
            }

            /// Its name in every output.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }

        const _: () = {
            let mut index = 0;
            while index < $type::ALL.len() {
                assert!($type::ALL[index] as usize == index, "a number is its place in the list");
                index += 1;
            }
        };
    };
}

/// A page of IOVA space, with the stream on whose behalf something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The DART.
    pub dart: DartId,
    /// The stream; if several share the tables, the lowest of them.
    pub stream: StreamId,
    /// The page of IOVA space.
    pub iova: IovaPage,
}

numbered! {
    /// How an access to watched bytes was carried out, and so what is known of it.
    WatchHow {
        /// The bytes are exactly those that were loaded or stored.
        Exact = 0, "exact",
        /// The CPU executes the instruction in a single step; these are the bytes that it accesses,
        /// from the first on, before the step.
        Before = 1, "before",
        /// The same bytes after the step.
        After = 2, "after",
        /// The watch of the page was given up: a CPU fetches instructions from it, or walks tables
        /// in it.
        GivenUp = 3, "given-up",
    }
}

numbered! {
    /// Where a mapped page is.
    Placement {
        /// At home: the granule's four pages are one aligned frame.
        Direct = 0, "direct",
        /// Migrated into the slot of a frame of the pool, where CPUs access it too.
        Migrated = 1, "migrated",
        /// In a bounce page in the slot of a frame of the pool, because the page is already mapped
        /// elsewhere.
        Bounce = 2, "bounce",
    }
}

numbered! {
    /// Why a mapping was refused that a DART with 4 KiB pages would accept.
    Refusal {
        /// The frame pool is exhausted.
        PoolExhausted = 0, "pool-exhausted",
        /// The page is not guest RAM: it belongs to Oche, or nothing is there.
        NotGuestMemory = 1, "not-guest-memory",
        /// The page is a device's. Recorded by earlier versions only.
        DeviceNotDirect = 2, "device-not-direct",
        /// The entry maps a part of the page by a sub-page window, which is not supported.
        SubPageWindow = 3, "sub-page-window",
        /// The page is mapped at too many IOVAs.
        TooManyAliases = 4, "too-many-aliases",
        /// A table lies outside guest RAM.
        TableNotGuestMemory = 5, "table-not-guest-memory",
        /// There are more tables than Oche can track.
        TooManyTables = 6, "too-many-tables",
        /// There are more domains than Oche supports.
        TooManyDomains = 7, "too-many-domains",
        /// Stage 2 has no memory left for an entry for the page.
        OutOfStage2Tables = 8, "out-of-stage2-tables",
        /// A CPU fetches instructions from the page, or walks tables in it, while a device may
        /// write a copy of it.
        NotTrappable = 9, "not-trappable",
        /// The page's permission differs from that of its granule, and the hardware cannot enforce
        /// both.
        MixedPermission = 10, "mixed-permission",
    }
}
