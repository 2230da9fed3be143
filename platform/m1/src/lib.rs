//! The M1 (t8103): what of it computes, and runs on a developer's laptop too.
//!
//! Nothing here has run on a Mac yet; what only a Mac can answer is said where it matters.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod aic;
pub mod darts;
pub mod device_tree;
pub mod framebuffer;
pub mod nvme;
pub mod ownership;
pub mod power;
pub mod screen;
