//! Oche's engine: emulates a DART with 4 KiB pages and mirrors the guest's mappings into the 16 KiB
//! hardware tables.
//!
//! ```text
//! trap -> emulated DART -> table tracker -> granules -> page mover + shadow tables -> IOMMU
//!         emulated_dart    tracker          granule     mover        shadow
//! ```
//!
//! One way, no back edges: a stage names only stages to its right, and only [`Engine`] knows them
//! all. The engine knows no machine. It reaches memory, the CPUs' stage 2 and the hardware IOMMU
//! through the traits of [`host`], and emits events through one of them without knowing how they
//! are recorded, so everything here runs on a developer's laptop against models of them.
//!
//! Memory is bounded from the start: [`Configuration::heap_bytes`] is all that is ever allocated.
//! Whatever a guest can enlarge lives in tables of a fixed capacity, and running out of one is a
//! refused mapping with a reason, never a panic.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod budget;
mod emulated_dart;
mod engine;
mod granule;
pub mod guest_memory;
mod heap;
pub mod host;
#[cfg(test)]
mod invariants;
mod mover;
pub mod pool;
mod shadow;
mod tracker;

pub use emulated_dart::AccessError;
pub use engine::{AccessKind, Configuration, Engine, FaultDisposition};
pub use granule::Isolation;
pub use granule::watch::WatchedAccess;
