//! Oche's engine: emulates a DART with 4 KiB pages and mirrors the guest's mappings into the 16 KiB
//! hardware tables.
//!
//! ```text
//! trap -> emulated DART -> table tracker -> granules -> page mover + shadow tables -> IOMMU
//!         emulated_dart    tracker          granule     mover        shadow
//! ```
//!
//! The flow has one direction: a stage uses only the stages to its right, and only [`Engine`] uses
//! all of them. The engine contains no code for a particular machine. It accesses memory, the CPUs'
//! stage 2 and the hardware IOMMU through the traits of [`host`], and reports events through
//! [`host::TraceSink`] without knowing how they are recorded. All of it therefore runs on a
//! developer's computer, against models of the hardware.
//!
//! Memory is bounded: the engine allocates [`Configuration::heap_bytes`] when it is created and
//! nothing afterwards. What a guest can make grow is kept in tables of fixed capacity. When one is
//! full, a mapping is refused with a reason; the engine does not panic.
#![no_std]
// The tests implement the traits of `host`, which is unsafe.
#![cfg_attr(not(test), forbid(unsafe_code))]

extern crate alloc;

pub mod budget;
mod emulated_dart;
mod engine;
mod granule;
pub mod guest_memory;
pub mod heap;
pub mod host;
#[cfg(test)]
mod invariants;
mod mover;
pub mod pool;
mod shadow;
mod tracker;

/// The phases of removals and additions, for the tests that wrong orders do not compile.
#[doc(hidden)]
pub mod phases {
    pub mod map {
        pub use crate::granule::addition::{Broken, Drained, Filled, MapBatch, Planned, Remapped};
    }
    pub mod unmap {
        pub use crate::granule::removal::{
            Broken, Cleared, Copied, Drained, Moved, Planned, Unlinked, UnmapBatch,
        };
    }
}

pub use emulated_dart::AccessError;
pub use engine::{AccessKind, Configuration, Engine, FaultDisposition};
pub use granule::Isolation;
pub use granule::copy_set::Parts;
pub use granule::watch::WatchedAccess;
