//! The simulated M1 with what it runs: its images, its stock kernel, U-Boot, and a Mac's device
//! tree.

pub mod bench;
pub(crate) mod device_tree;
pub mod linux;
#[cfg(test)]
mod manual;
pub mod u_boot;
pub(crate) mod update_m1n1;
