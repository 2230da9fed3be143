//! The floor: what every other crate of Oche speaks of. Addresses, the DART's registers, entries
//! and streams, and the events of the engine, with their encodings and nothing else: no decision is
//! taken here.
#![no_std]
#![forbid(unsafe_code)]

pub mod addr;
pub mod dart;
pub mod event;
pub mod guest_memory;
mod invariant;
pub mod range;
pub mod selection;

pub use invariant::Invariant;

/// Most CPUs that are run.
pub const MAX_CPUS: usize = 16;
