//! The t8020-type DART in words: registers, streams and table entries. Nothing here acts.
//!
//! The same definitions serve the DART that the guest sees (the engine keeps it) and the
//! one that a platform drives: two uses, one truth.

pub mod entry;
pub mod registers;
pub mod stream;
