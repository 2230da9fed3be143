//! The traits through which the engine uses a machine: those of [`oche_host`].

pub use oche_host::*;
