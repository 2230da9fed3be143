//! Types that all other crates of Oche use: addresses, the DART's registers, table entries and
//! streams, and the engine's events. It contains encodings and no other logic.
#![no_std]
#![forbid(unsafe_code)]

pub mod addr;
pub mod call_chain;
pub mod dart;
pub mod event;
pub mod guest_memory;
pub mod identity;
mod invariant;
pub mod range;
pub mod selection;

pub use invariant::Invariant;

/// Most CPUs that Oche supports.
pub const MAX_CPUS: usize = 16;
