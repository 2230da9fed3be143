//! Everything that builds, packs, boots and examines Oche on a developer's own machine.

pub mod check;
pub mod command;
#[cfg(test)]
mod contract;
pub mod demo;
pub mod el2;
pub mod environment;
pub mod guest;
pub mod hostile;
pub mod m1;
pub mod measure;
pub mod mutants;
pub mod pack;
pub mod pictures;
pub mod progress;
pub mod qemu;
pub mod run;
pub mod setup;
pub mod soak;
pub mod test;
pub mod trace;
pub mod workspace;
