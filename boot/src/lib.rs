//! Boot: from the first instruction at EL2 to a running guest, and every trap of the guest after that.
//!
//! Two halves. The pure modules decide (what the FDT says, where things go, what a trap means, which entry
//! of stage 2 changes and in which order) and are tested on any host. The target modules act (system
//! registers, vectors, TLBs) and exist only for bare metal; the `cfg` at their doors below is the only one.
//!
//! ```text
//! entry -> early map -> MMU on -> machine -> layout -> guest FDT -> stage 2 -> EL2 registers -> guest
//!                                                              trap -> syndrome -> Platform -> resume
//! ```
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod blob;
pub mod blocks;
pub mod callers;
pub mod device;
pub mod fiq;
pub mod guard;
pub mod guest_fdt;
pub mod guest_map;
pub mod header;
pub mod identity;
pub mod inject;
pub mod layout;
pub mod lock;
pub mod machine;
pub mod mmio;
pub mod options;
pub mod payload;
pub mod psci;
pub mod stage2;
pub mod syndrome;

#[cfg(target_os = "none")]
pub mod bare;
