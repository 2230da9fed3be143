//! What every board has in common: the engine behind a lock, guest memory, the trace in memory.
//!
//! A board brings its IOMMU and defines which DARTs its guest sees; all else is here. It needs EL2,
//! so on a developer's machine there is nothing in it.
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
