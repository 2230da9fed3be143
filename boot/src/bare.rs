//! The modules of boot that need an AArch64 CPU at EL2.
//!
//! ```text
//! entry -> Board's main -> prepare -> stage 2 -> the board's devices -> launch -> the guest
//! ```
// UNSAFETY: assembly, EL2's page tables and physical memory. What each block relies on is stated
// there; the common ground is `oche_el2`'s.
#![expect(unsafe_code, reason = "EL2: the entry, page tables, physical memory")]

pub mod board;
pub mod bring_up;
pub mod entry;
mod entry_state;
pub mod fail_open;
mod fdt_buffer;
pub mod handover;
pub mod heap;
mod launch;
pub mod memory;
mod packed;
pub mod prepare;
pub mod selftest;
pub mod spin_table;
pub mod stage1;
