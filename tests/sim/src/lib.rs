//! The simulated machine in which the engine is tested: memory, CPUs and a 16 KiB IOMMU that do
//! whatever the engine's traits do not exclude, with a break-before-make checker and fault
//! injection. The differential test (`tests/differential`) uses it too.

pub mod access;
pub mod allocations;
pub mod bbm_checker;
pub mod cpu_tables;
pub mod driver;
pub mod engine;
mod entries;
pub mod frames;
pub mod hardware;
pub mod machine;
pub mod memory;
pub mod random;
pub mod setup;
