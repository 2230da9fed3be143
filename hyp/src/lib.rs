//! Oche's core: shows a guest a DART with 4K pages and keeps a 16K IOMMU equivalent to it.
//!
//! ```text
//! guest write -> trap -> virtual DART -> table tracker -> placement -> page mover + shadow tables -> IOMMU
//!                        vdart           tracker          placement    mover        shadow
//! ```
//!
//! One way, no back edges: a stage names only stages to its right, and only [`engine`] knows them all. The core knows no
//! machine. It reaches memory, the CPUs' stage 2, the hardware IOMMU and the trace through the traits of
//! [`world`], so everything here runs on a developer's laptop against models of them.
//!
//! Memory is bounded from the start: [`engine::Configuration::heap_bytes`] is all that is ever allocated.
//! Whatever a guest can enlarge lives in tables of a fixed capacity, and running out of one is a refused
//! mapping with a reason, never a panic.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod addr;
pub mod dart;
pub mod statistics;
pub mod trace;
pub mod virtio;
pub mod world;

pub mod budget;
mod invariant;
mod mover;
mod placement;
pub mod pool;
mod shadow;
mod tracker;
mod vdart;

pub mod engine;
