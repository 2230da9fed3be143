//! What happened, as events, in the engine's own types.
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
        /// One thing that happened in the engine.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event {
            $($(#[$doc])* $kind {
                $($(#[$field_doc])* $field: $type,)*
            },)*
        }

        /// What an event is, without its fields. The numbers are part of the file format and never
        /// change their meaning.
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

            /// The kind with `number`, or `None` where this version knows none.
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

            /// The word for it in every output, and in the orders of the control block.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

events!(declare);

/// Declares a set of facts that have a number in records and a word in every output.
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

            /// The one with `number`, or `None` where this version knows none.
            #[inline]
            pub fn from_number(number: u8) -> Option<Self> {
                Self::ALL.get(usize::from(number)).copied()
            }

            /// The word for it in every output.
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

/// A page of a device's address space, with the stream on whose behalf something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The DART.
    pub dart: DartId,
    /// The stream; where several share the tables, the lowest of them.
    pub stream: StreamId,
    /// The page of IOVA space.
    pub iova: IovaPage,
}

numbered! {
    /// What is known of an access to watched bytes.
    WatchHow {
        /// The bytes are exactly those that were loaded or stored.
        Exact = 0, "exact",
        /// The CPU executes the instruction by itself; these are the bytes from the first that it
        /// touches on, before that.
        Before = 1, "before",
        /// The same bytes afterwards.
        After = 2, "after",
        /// The page is no longer watched: a CPU fetches instructions from it, or walks tables in
        /// it.
        GivenUp = 3, "given-up",
    }
}

numbered! {
    /// How a mapped page is reached.
    Placement {
        /// At home: the granule's four pages are one aligned frame.
        Direct = 0, "direct",
        /// Moved into the slot of a frame of the pool; CPUs reach it there.
        Migrated = 1, "migrated",
        /// Copied into the slot of a frame of the pool, since the page is already mapped elsewhere.
        Bounce = 2, "bounce",
    }
}

numbered! {
    /// Why a mapping was refused. A 4K DART would have taken it.
    Refusal {
        /// The frame pool is exhausted.
        PoolExhausted = 0, "pool-exhausted",
        /// The page belongs to Oche, or nothing answers there.
        NotGuestMemory = 1, "not-guest-memory",
        /// The page is a device's. Recorded by earlier versions only.
        DeviceNotDirect = 2, "device-not-direct",
        /// The entry narrows the page by a sub-page window, which is not supported yet.
        SubPageWindow = 3, "sub-page-window",
        /// The page is mapped at too many IOVAs.
        TooManyAliases = 4, "too-many-aliases",
        /// A table lies outside guest RAM.
        TableNotGuestMemory = 5, "table-not-guest-memory",
        /// There are more tables than Oche can track.
        TooManyTables = 6, "too-many-tables",
        /// There are more domains than Oche can hold.
        TooManyDomains = 7, "too-many-domains",
        /// Stage 2 has no memory left to give the page an entry of its own.
        OutOfStage2Tables = 8, "out-of-stage2-tables",
        /// A CPU fetches instructions from the page, or walks tables in it, while a device may
        /// write a copy of it.
        NotTrappable = 9, "not-trappable",
        /// The page's permission is another than its granule's, and the hardware cannot keep them
        /// apart.
        MixedPermission = 10, "mixed-permission",
    }
}
