//! The simulated machine that the engine is tested in: memory, CPUs and a 16K IOMMU that do all
//! that the engine's traits do not forbid, with a checker of break-before-make and fault injection.

pub mod allocations;
pub mod bbm_checker;
pub mod driver;
pub mod engine;
pub mod frames;
pub mod iommu;
pub mod machine;
pub mod memory;
pub mod random;
pub mod stage2;
