//! The trace file's bytes, which Oche itself can write too: the code is the hypervisor's.

pub use oche_trace::file::*;
