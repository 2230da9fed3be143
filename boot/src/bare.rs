//! The half of boot that acts: what only an AArch64 CPU at EL2 can do.
// UNSAFETY: assembly, system registers, page tables and physical memory. What each block relies on is said
// there; the common ground is this:
// - EL2 runs on an identity map, so a physical address that `stage1` maps is a valid pointer.
// - Each CPU has its own stack and takes no interrupts at EL2: all are masked there, and HCR_EL2.IMO and AMO are 0.
// - The guest reaches none of Oche's memory: stage 2 does not map it.
#![expect(unsafe_code, reason = "EL2: system registers, vectors, page tables")]

pub mod apple;
pub mod cache;
pub mod callers;
pub mod console;
pub mod counters;
pub mod cpu;
pub mod device;
pub mod el2;
pub mod entry;
pub mod fiq;
pub mod firmware;
pub mod frame;
mod gic;
pub mod guard;
pub mod heap;
pub mod launch;
pub mod mmio;
pub mod panic;
#[cfg(feature = "panic-on-request")]
mod panic_request;
pub mod registers;
pub mod selftest;
pub mod spin_table;
pub mod stage1;
mod step;
pub mod tlb;
mod translation;
pub mod trap;
