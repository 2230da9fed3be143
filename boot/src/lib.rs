//! Boot: from the first instruction at EL2 to the start of the guest. The code that runs after that
//! is in `oche_el2`.
//!
//! The crate has two halves. The pure modules interpret the FDT and plan the memory, and are tested
//! on any host. The target modules, in `bare`, exist only for bare metal; the `cfg` of `bare` is
//! the only one.
//!
//! ```text
//! entry -> early map -> MMU on -> machine -> layout -> stage 2 -> guest FDT -> EL2 registers
//! ```
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod banner;
pub mod blob;
pub mod blocks;
pub mod bring_up;
pub mod guest_fdt;
pub mod guest_map;
pub mod header;
pub mod layout;
pub mod machine;
pub mod native;
pub mod normalize;
pub mod options;
pub mod payload;
pub mod selftest_line;
pub mod tree;

#[cfg(target_os = "none")]
pub mod bare;
