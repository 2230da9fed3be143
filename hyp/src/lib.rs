//! Oche's core: shows a guest a DART with 4K pages and keeps a 16K IOMMU equivalent to it.
//!
//! ```text
//! guest write -> trap -> virtual DART -> table tracker -> placement -> page mover + shadow tables -> IOMMU
//!                        vdart           tracker          placement    mover        shadow
//! ```
//!
//! One way, no back edges: a module names only modules above it in the list below. The core knows no
//! machine. It reaches memory, the CPUs' stage 2, the hardware IOMMU and the trace through the traits of
//! [`world`], so everything here runs on a developer's laptop against models of them.
//!
//! Allocation happens in constructors only. Whatever a guest can enlarge afterwards lives in tables of a
//! fixed capacity, and running out of one is a refused mapping with a reason, never a panic.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod addr;
pub mod dart;
pub mod statistics;
pub mod trace;
pub mod world;
