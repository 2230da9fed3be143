//! The parts of the guest: a distribution's kernel, its DART driver as a module, programs, and an
//! initramfs.

pub mod archive;
mod headers;
pub mod initramfs;
pub mod kernel;
pub mod module;
pub mod modules;
pub(crate) mod program;
pub mod sources;
pub(crate) mod toolchain;
pub mod userland;
