//! Boot: from the first instruction at EL2 to a running guest. What runs after that is `oche_el2`.
//!
//! Two halves. The pure modules decide (what the FDT describes, where things go) and are tested on
//! any host. The target modules act and exist only for bare metal; the `cfg` at their door below is
//! the only one.
//!
//! ```text
//! entry -> early map -> MMU on -> machine -> layout -> stage 2 -> guest FDT -> EL2 registers
//! ```
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod blob;
pub mod blocks;
pub mod guest_fdt;
pub mod guest_map;
pub mod header;
pub mod identity;
pub mod layout;
pub mod machine;
pub mod normalize;
pub mod options;
pub mod payload;
pub mod tree;

#[cfg(target_os = "none")]
pub mod bare;
