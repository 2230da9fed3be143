//! The implementation of `cargo xtask`, which builds, boots, measures and checks Oche on a
//! developer's own machine.

pub mod check;
pub mod cli;
#[cfg(test)]
mod contract;
pub mod demo;
pub mod dist;
mod document_commands;
#[cfg(test)]
mod documents;
pub mod environment;
pub mod fix;
#[cfg(test)]
mod form;
pub mod guest;
pub mod hostile;
pub mod m1;
pub mod measure;
pub mod mutants;
mod next_command;
pub mod nightly;
pub mod ordering;
mod perfetto;
pub mod pictures;
pub mod qemu;
#[cfg(test)]
mod retired;
pub mod run;
mod runner;
pub mod setup;
pub mod soak;
pub mod test;
