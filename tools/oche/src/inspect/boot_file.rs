//! m1n1's boot file, `m1n1/boot.bin`: m1n1 and its payloads, one behind the other.
//!
//! m1n1 goes through its payloads in order, recognizes each by its first bytes, and starts the last
//! kernel with the last device tree that matches the Mac. [`BootFile::read`] goes the same way.
//! Source of the format: m1n1 1.4.21 and 1.6.1, `src/payload.c` (magics, order, limits),
//! `src/chainload.c` (what the first stage appends) and `m1n1-raw.ld` (where payloads begin).

mod file;
mod payload;
mod taken;
mod text;

pub use file::BootFile;
pub(crate) use payload::tree;
pub use payload::{Compression, Content, End, KernelPayload, Payload, TreePayload};
pub use taken::Taken;

#[cfg(test)]
mod tests;
