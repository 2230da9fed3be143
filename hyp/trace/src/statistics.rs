//! Counters: what the engine did since the start, and why CPUs left the guest.
//!
//! Both are lists of a name and a number, declared once, here. The trace directory carries the
//! names beside the numbers (see [`crate::directory`]), so that readers need no list of their own.

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

use oche_types::event::{Event, Placement, Refusal};
use oche_types::events;

/// Most bytes in a counter's name.
pub const NAME_BYTES: usize = 24;

/// Declares a struct of `u64` counters, the list of their names, and their places in it.
macro_rules! counters {
    ($(#[$outer:meta])* $name:ident { $($(#[$inner:meta])* $field:ident,)* }) => {
        #[expect(non_camel_case_types, reason = "named as the counters are")]
        #[derive(Clone, Copy)]
        enum Place {
            $($field,)*
        }

        $(#[$outer])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$inner])* pub $field: u64,)*
        }

        impl $name {
            /// The counters' names, in the order of [`Self::values`]. New ones are added at the
            /// end.
            pub const NAMES: &[&str] = &[$(stringify!($field)),*];

            /// The counters, in the order of [`Self::NAMES`].
            pub fn values(&self) -> [u64; Self::NAMES.len()] {
                [$(self.$field),*]
            }

            /// The counters with `values`, in the order of [`Self::NAMES`].
            fn of([$($field),*]: [u64; Self::NAMES.len()]) -> Self {
                Self { $($field),* }
            }
        }
    };
}

counters! {
    /// What the engine did since the start. Counts only grow, but for the `mapped_now` gauge:
    /// [`LiveStatistics`] counts.
    Statistics {
        /// Register reads by the guest.
        register_reads,
        /// Register writes by the guest.
        register_writes,
        /// Invalidations that the guest asked for.
        flushes,
        /// Times a trap ended with work of a flush left for the next poll.
        flushes_split,
        /// Pages that became reachable for a device.
        maps,
        /// Pages that ceased to be.
        unmaps,
        /// Pages that are reachable: `maps` less `unmaps`, as of [`LiveStatistics::balance`].
        mapped_now,
        /// Bytes that were mapped directly, in all.
        bytes_direct,
        /// Bytes that were mapped in frames of the pool, in all.
        bytes_migrated,
        /// Bytes that were mapped as bounce pages, in all.
        bytes_bounce,
        /// Mappings refused, in all.
        refused,
        /// Mappings refused since the pool was exhausted.
        refused_pool,
        /// Mappings refused since the page is not the guest's.
        refused_not_memory,
        /// Mappings of a device's page that could not be direct.
        refused_device,
        /// Mappings with a sub-page window.
        refused_window,
        /// Mappings of a page mapped too often.
        refused_aliases,
        /// Tables outside guest RAM.
        refused_table,
        /// Tables beyond what can be watched.
        refused_tables_full,
        /// Domains beyond what can be held.
        refused_domains_full,
        /// Mappings refused since stage 2 had no memory left.
        refused_stage2,
        /// Accesses by devices that were refused.
        faults,
        /// Of these, those that the guest cannot see, since its register still held an earlier one.
        faults_hidden,
        /// Red zones that a device wrote into.
        red_zone_hits,
        /// Pages that moved away from home, or from one place away to another.
        moved_pages,
        /// Pages that moved home.
        home_moves,
        /// Granules that changed their frame while in use.
        live_moves,
        /// Bytes that devices wrote during those, brought along.
        live_move_bytes,
        /// Times the copies of a page were made equal.
        merges,
        /// Bytes that had changed in those.
        merged_bytes,
        /// Table pages made unsync for writing without a trap.
        table_unsyncs,
        /// Table pages write-protected again.
        table_write_protects,
        /// Streams that began to translate.
        attaches,
        /// Streams that were blocked.
        blocks,
        /// Invalidations that the hardware did not finish.
        invalidate_timeouts,
        /// Trapped accesses by the guest.
        trapped_accesses,
        /// Mappings given up since a CPU fetches from the page or walks tables in it.
        refused_not_trappable,
        /// Mappings whose permission could not be kept apart from their granule's.
        refused_permission,
        /// Accesses by CPUs to watched bytes that were reported.
        watch_hits,
    }
}

/// Where a counter is, or one of those that a field chooses from.
macro_rules! place {
    ($counter:ident) => {
        Place::$counter
    };
    ($counter:ident $by:ident) => {
        $counter($by)
    };
}

/// Generates which counters an event moves.
macro_rules! counts {
    ($(
        $(#[$doc:meta])*
        $kind:ident = $number:literal, $name:literal {
            $($(#[$field_doc:meta])* $field:ident: $type:ty = $place:ident($($at:tt)*),)*
        }
        $(also $also:ident: $also_type:ty = $also_place:ident($($also_at:tt)*) from $value:expr;)?
        reach($($reach:tt)*)
        text($($text:tt)*)
        counts($($counter:ident $([$by:ident])? += $amount:expr),* $(,)?)
    )*) => {
        /// Calls `add` for each counter that `event` moves, with the number to add.
        #[inline(always)]
        fn count(event: &Event, add: impl Fn(Place, u64)) {
            match *event {
                $(Event::$kind { $($field),* } => {
                    let _ = ($($field,)*);
                    $(add(place!($counter $($by)?), $amount);)*
                })*
            }
        }
    };
}

events!(counts);

/// The counters in memory that readers see while the engine counts. One CPU at a time counts, and
/// no other access is ordered by them, so an addition needs no atomic instruction.
#[derive(Clone, Copy, Debug)]
pub struct LiveStatistics<'a>(&'a [AtomicU64; Statistics::NAMES.len()]);

impl<'a> LiveStatistics<'a> {
    /// Counts in `words`, from what they hold.
    pub const fn new(words: &'a [AtomicU64; Statistics::NAMES.len()]) -> Self {
        Self(words)
    }

    /// Takes note of `event`. Inlined, as [`RingWriter::record`](crate::ring::RingWriter::record).
    #[inline(always)]
    pub fn count(&self, event: &Event) {
        // Counters of 64 bits do not overflow in a machine's life; wrapping spares each event a
        // check. What an event adds to a counter is mostly known to the compiler, also that it is
        // nothing, but a load and a store of an atomic stay.
        count(event, |place, number| {
            if number != 0 {
                self.set(place, self.get(place).wrapping_add(number));
            }
        });
    }

    /// Whether `mapped_now` is out of date after `event`.
    #[inline(always)]
    pub fn moves_gauge(event: &Event) -> bool {
        let moves = Cell::new(false);
        count(event, |place, _| {
            moves.set(moves.get() || matches!(place, Place::maps | Place::unmaps));
        });
        moves.get()
    }

    /// Brings `mapped_now` up to date: once a trap, which spares each event the work.
    #[inline]
    pub fn balance(&self) {
        self.set(Place::mapped_now, self.get(Place::maps).saturating_sub(self.get(Place::unmaps)));
    }

    /// The counters as they are.
    pub fn read(&self) -> Statistics {
        Statistics::of(self.0.each_ref().map(|word| u64::from_le(word.load(Ordering::Relaxed))))
    }

    #[inline]
    fn get(&self, place: Place) -> u64 {
        u64::from_le(self.0[place as usize].load(Ordering::Relaxed))
    }

    #[inline]
    fn set(&self, place: Place, value: u64) {
        self.0[place as usize].store(value.to_le(), Ordering::Relaxed);
    }
}

fn bytes_of(placement: Placement) -> Place {
    match placement {
        Placement::Direct => Place::bytes_direct,
        Placement::Migrated => Place::bytes_migrated,
        Placement::Bounce => Place::bytes_bounce,
    }
}

fn refused_for(reason: Refusal) -> Place {
    match reason {
        Refusal::PoolExhausted => Place::refused_pool,
        Refusal::NotGuestMemory => Place::refused_not_memory,
        Refusal::DeviceNotDirect => Place::refused_device,
        Refusal::SubPageWindow => Place::refused_window,
        Refusal::TooManyAliases => Place::refused_aliases,
        Refusal::TableNotGuestMemory => Place::refused_table,
        Refusal::TooManyTables => Place::refused_tables_full,
        Refusal::TooManyDomains => Place::refused_domains_full,
        Refusal::OutOfStage2Tables => Place::refused_stage2,
        Refusal::NotTrappable => Place::refused_not_trappable,
        Refusal::MixedPermission => Place::refused_permission,
    }
}

/// Declares [`Exit`] and the list of its counters' names.
macro_rules! exits {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a CPU left the guest for EL2. Each exception that is taken from the guest counts as
        /// exactly one of these, on its own CPU, in the trace directory if there is one
        /// ([`cpu_counters`](crate::directory::cpu_counters)).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Exit {
            $($(#[$doc])* $variant,)*
        }

        impl Exit {
            /// The names of a CPU's counters: of each kind of exit, in order, then those of
            /// [`INJECTED`] and [`TLB_BROADCASTS`].
            pub const NAMES: &[&str] = &[$($name,)* "injected_exceptions", "tlb_broadcasts"];
        }
    };
}

exits! {
    /// A load or store of an emulated DART's register.
    DartRegister = "exits_dart_register",
    /// An access to a page that the engine traps: a store to a write-protected table, any to a
    /// trapped page.
    TrappedPage = "exits_trapped_page",
    /// An access to a broken page, or one that succeeds when it is repeated: the guest tries
    /// again.
    Retry = "exits_retry",
    /// The first fetch from a page that has moved.
    Execute = "exits_execute",
    /// Another access that stage 2 refuses: to a device that EL2 answers for, or to nothing.
    Device = "exits_device",
    /// The end of a step of one instruction.
    Step = "exits_step",
    /// `HVC`.
    HypervisorCall = "exits_hvc",
    /// `SMC`: PSCI, mostly.
    SecureCall = "exits_smc",
    /// A trapped system register.
    SystemRegister = "exits_system_register",
    /// A FIQ for the guest, with `oche.fiq=virtual`.
    Fiq = "exits_fiq",
    /// A look whether the guest has dealt with its timer: the same.
    FiqPoll = "exits_fiq_poll",
    /// Any other exception.
    Other = "exits_other",
}

/// The place among a CPU's counters of how many of its exits ended in an abort or an undefined
/// instruction for the guest.
pub const INJECTED: usize = Exit::NAMES.len() - 2;

/// The place among a CPU's counters of how many TLB invalidations of all CPUs it has issued at EL2.
pub const TLB_BROADCASTS: usize = Exit::NAMES.len() - 1;

const _: () = {
    let lists = [Statistics::NAMES, Exit::NAMES];
    let mut list = 0;
    while list < lists.len() {
        let mut index = 0;
        while index < lists[list].len() {
            assert!(
                lists[list][index].len() <= NAME_BYTES,
                "a counter's name is too long for its entry"
            );
            index += 1;
        }
        list += 1;
    }
    assert!(Exit::Other as usize + 1 == INJECTED);
};

#[cfg(test)]
mod tests {
    use super::*;
    use oche_types::addr::{Gfn, Hfn, IovaPage};
    use oche_types::dart::entry::Permission;
    use oche_types::dart::stream::{DartId, StreamId};
    use oche_types::event::Place;

    #[test]
    fn an_event_moves_only_its_own_counters() {
        let dart = DartId::new(0).unwrap();
        let at = Place { dart, stream: StreamId::new(1).unwrap(), iova: IovaPage(7) };
        let permission = Permission::READ_WRITE;
        let words = [const { AtomicU64::new(0) }; Statistics::NAMES.len()];
        let counted = LiveStatistics::new(&words);
        counted.count(&Event::Map { at, page: Gfn(9), permission, placement: Placement::Migrated });
        counted.count(&Event::Map { at, page: Gfn(8), permission, placement: Placement::Direct });
        counted.count(&Event::Moved { page: Gfn(9), to: Hfn(100) });
        counted.count(&Event::Unmap { at, page: Gfn(9) });
        counted.count(&Event::Moved { page: Gfn(9), to: Gfn(9).home() });
        counted.count(&Event::Refused { at, page: Gfn(1), reason: Refusal::TooManyDomains });
        assert_eq!(counted.read().mapped_now, 0);
        counted.balance();
        let expected = Statistics {
            maps: 2,
            mapped_now: 1,
            unmaps: 1,
            bytes_direct: 4096,
            bytes_migrated: 4096,
            moved_pages: 1,
            home_moves: 1,
            refused: 1,
            refused_domains_full: 1,
            ..Statistics::default()
        };
        assert_eq!(counted.read(), expected);
    }

    #[test]
    fn names_and_values_stand_in_the_same_order() {
        let counted = Statistics { maps: 3, trapped_accesses: 5, ..Statistics::default() };
        let values = counted.values();
        assert_eq!(values.len(), Statistics::NAMES.len());
        let of = |name| {
            Statistics::NAMES.iter().position(|known| *known == name).map(|index| values[index])
        };
        assert_eq!((of("maps"), of("trapped_accesses"), of("unmaps")), (Some(3), Some(5), Some(0)));
    }
}
