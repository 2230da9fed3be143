//! The code that runs at EL2 after boot: every exception from the vectors to the exception return.
//!
//! The crate has two halves. The pure modules decide what a trap means, what an instruction does,
//! and which stage-2 entries change in which order; they are tested on any host. The target modules
//! access system registers, vectors and TLBs, and exist only for bare metal. If a module does both,
//! its target half is the submodule `hw`, which depends on the pure half and not the other way
//! round.
//!
//! ```text
//! vectors -> trap -> Platform::access_dart
//!                 |-> device::hw -> Platform::access_device
//!                 |-> Platform::access_trapped_page -> trapped_page::hw
//!                 \-> smp (PSCI), fiq::hw, inject::hw
//! ```
// UNSAFETY: assembly, system registers and physical memory. What each block relies on is stated
// there; the common ground is this:
// - EL2 runs on an identity map, so a physical address that its stage 1 maps is a valid pointer.
// - Each CPU has its own stack and takes no interrupts at EL2: all are masked there, and
//   HCR_EL2.IMO and AMO are 0.
// - The guest reaches none of Oche's memory: stage 2 does not map it.
#![cfg_attr(not(test), no_std)]

#[cfg(target_os = "none")]
pub mod apple;
#[cfg(target_os = "none")]
pub mod cache;
pub mod callers;
#[cfg(target_os = "none")]
pub mod console;
#[cfg(target_os = "none")]
pub mod counters;
#[cfg(target_os = "none")]
pub mod cpu_setup;
pub mod device;
pub mod failure;
#[cfg(target_os = "none")]
pub mod fault;
#[cfg(target_os = "none")]
pub mod features;
pub mod fiq;
#[cfg(target_os = "none")]
pub mod firmware;
pub mod fixup;
#[cfg(target_os = "none")]
pub mod frame;
#[cfg(target_os = "none")]
pub mod guest;
pub mod guest_registers;
#[cfg(target_os = "none")]
pub mod identity;
#[cfg(target_os = "none")]
pub mod image;
pub mod inject;
pub mod instruction;
pub mod lock;
#[cfg(target_os = "none")]
mod memcpy;
#[cfg(target_os = "none")]
pub mod mmio;
#[cfg(target_os = "none")]
pub mod panic;
#[cfg(all(target_os = "none", feature = "panic-on-request"))]
mod panic_request;
#[cfg(target_os = "none")]
pub mod percpu;
pub mod psci;
#[cfg(target_os = "none")]
pub mod registers;
#[cfg(target_os = "none")]
pub mod smp;
pub mod stage2;
pub mod step;
pub mod syndrome;
#[cfg(target_os = "none")]
pub mod tlb;
#[cfg(target_os = "none")]
mod translation;
#[cfg(target_os = "none")]
pub mod trap;
pub mod trapped_page;
#[cfg(target_os = "none")]
pub mod vectors;
pub mod words;
