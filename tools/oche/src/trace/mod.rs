//! The trace outside the hypervisor: recorded from a guest's memory while it runs, kept in a file,
//! read back.
//!
//! ```text
//! RAM file -> memory -> recorder -> file (format) -> reader -> text, json, stats
//! ```
//!
//! The file is described byte by byte in `docs/trace.md`.

pub mod align;
pub mod callers;
pub mod check;
pub mod clock;
pub mod command;
pub mod control;
pub mod ctf;
pub mod description;
pub mod event_fields;
pub mod extcap;
pub mod filter;
pub mod folded;
pub mod follow;
pub mod format;
pub mod ftrace;
pub mod guest_kernel;
pub mod leaks;
pub mod lifetime;
pub mod live;
pub mod maps;
pub mod memory;
pub mod names;
pub mod ordered;
pub mod output;
pub mod pages;
pub mod pcapng;
pub mod perfetto;
pub mod reader;
pub mod recorder;
pub mod report;
pub mod signals;
pub mod spans;
pub mod stream;
pub mod summary;
pub mod symbols;
pub mod values;
pub mod why;
pub mod wireshark;
pub mod words;

pub mod made;

pub use memory::read_statistics;
pub use reader::TraceFile;
pub use recorder::{FileRecorder, Recording};

#[cfg(test)]
mod damage;
#[cfg(test)]
mod numbers;
#[cfg(test)]
mod throughput;
