//! The M1 (t8103): the part that needs no privileged instruction, so that host tests run it.
//!
//! Nothing here has run on a Mac yet. `docs/m1.md` lists the assumptions that only a Mac can
//! confirm.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod aic;
pub mod darts;
pub mod device_tree;
pub mod framebuffer;
pub mod memory;
pub mod nvme;
pub mod ownership;
pub mod power;
pub mod screen;
pub mod windows;
