//! The guest's instructions, as far as EL2 must know them: those that it emulates, and what it may
//! step.
//!
//! Emulated are what kernels and `memcpy` execute most: loads and stores of one register or two,
//! any addressing, acquire and release, and the exclusives, which can be done in no other way
//! ([`decode`]). Everything else (SIMD and FP, atomics, `DC ZVA`, SVE, what later architectures
//! add) is single-stepped ([`may_touch_memory`], [`stepped_bytes`]).

mod access;
mod class;
mod field;
mod load_store;
mod stepped;

pub use access::{Access, Addressing, Extension, Operation};
pub use class::{
    InstructionSet, gives_up_monitor, is_load_exclusive, is_plain, is_wait, may_touch_memory,
};
pub use load_store::{decode, is_store_exclusive};
pub use stepped::{MAX_BYTES, stepped_bytes, stepped_offset};
