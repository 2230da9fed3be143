//! The simulated machine that the engine is tested in: memory, CPUs and a 16K IOMMU that do all
//! that the engine's traits do not forbid, with a checker of break-before-make and fault injection.

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
