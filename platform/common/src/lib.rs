//! What all boards share: the engine behind a lock, guest memory, and the trace in memory.
//!
//! A board adds the driver of its IOMMU and defines which DARTs its guest has. All but [`memory`]
//! needs EL2, and is left out on a developer's computer.
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
pub mod memory;
#[cfg(target_os = "none")]
pub mod panic_trace;
#[cfg(target_os = "none")]
pub mod port;
#[cfg(target_os = "none")]
pub mod recorder;
