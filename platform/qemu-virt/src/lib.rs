//! QEMU's virt machine: an SMMUv3 driven with 16K pages only, standing in for the DARTs of a Mac.
//!
//! What computes is here and runs on a developer's laptop too; [`smmu`] reaches its hardware
//! through a register block and memory that a test can play. What needs EL2 is behind a door of its
//! own.
#![no_std]
// UNSAFETY: device registers and memory that the SMMU shares are reached through addresses that
// hardware chose. `smmu` holds all of it.
#![expect(unsafe_code, reason = "registers and DMA memory are raw addresses")]

extern crate alloc;
#[cfg(test)]
extern crate std;

#[cfg(target_os = "none")]
pub mod darts;
#[cfg(target_os = "none")]
pub mod gic;
pub mod guest_fdt;
pub mod iommu_map;
pub mod port;
pub mod smmu;
