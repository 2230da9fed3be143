//! The t8020-type DART: layouts of registers and table entries, and numbers of streams.
//!
//! The engine's emulated DART and the platform's driver of the hardware DART use the same
//! definitions.

pub mod entry;
pub mod registers;
pub mod stream;
