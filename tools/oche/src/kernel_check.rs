//! `oche check-kernel`: which of an M1's devices a kernel can drive, by its configuration.
//!
//! [`devices`] has the drivers, each with the source of what is said about it; [`judgement`]
//! applies them to one kernel. Nothing here was tried on a Mac: "built in" means that the driver is
//! there.

pub mod command;
pub mod config;
pub mod device_tree;
pub mod devices;
pub mod initrd;
pub mod judgement;
pub mod kernel;
pub mod rules;
pub(crate) mod text;
pub mod warnings;
