//! The M1 (t8103). Host tests run all of it but `hw`, which accesses registers.
//!
//! Nothing here has run on a Mac yet. `docs/m1.md` lists the assumptions that only a Mac can
//! confirm.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod aic;
pub mod dart_choice;
pub mod darts;
pub mod device_tree;
pub mod framebuffer;
#[cfg(target_os = "none")]
pub mod hw;
pub mod memory;
pub mod nvme;
pub mod ownership;
pub mod power;
pub mod screen;
pub mod software_line;
pub mod windows;
