//! What all boards share: the engine behind a lock, guest memory, and the trace in memory.
//!
//! A board adds the driver of its IOMMU and defines which DARTs its guest has. This crate needs
//! EL2, so it is empty on a developer's computer.
#![no_std]
// UNSAFETY: pages of the guest and the trace's memory are reached through addresses that the layout
// chose.
#![cfg_attr(
    target_os = "none",
    expect(unsafe_code, reason = "guest pages and the trace's memory are raw addresses")
)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
pub mod emulated_darts;
#[cfg(target_os = "none")]
pub mod host;
#[cfg(target_os = "none")]
pub mod panic_trace;
#[cfg(target_os = "none")]
pub mod port;
#[cfg(target_os = "none")]
pub mod recorder;
