//! Decoding of the guest's instructions: those that EL2 emulates, and those that it may step.
//!
//! EL2 emulates what kernels and `memcpy` use most: loads and stores of one or two registers with
//! any addressing mode, acquire and release, and the exclusives, which cannot be stepped
//! ([`decode`]). All other instructions (SIMD and FP, atomics, `DC ZVA`, SVE, later additions) are
//! single-stepped ([`may_touch_memory`], [`stepped_bytes`]).

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
