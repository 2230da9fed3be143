//! `oche install`, `oche status` and `oche uninstall`: Oche in m1n1's boot file of an installed
//! system, by the distribution's own `update-m1n1`.
//!
//! What is on the disk at every moment, and in which order it gets there, is in `steps` and
//! [`record`]; `docs/m1.md` has the commands.

pub mod command;
mod esp;
mod files;
mod mac;
mod plan;
pub mod record;
pub(crate) mod remove;
mod root;
mod script;
mod settings;
pub mod status;
mod steps;
mod verify;
