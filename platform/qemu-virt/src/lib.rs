//! QEMU's virt machine: an SMMUv3 driven with 16K pages only, standing in for the DARTs of a Mac.
//!
//! What computes is here and runs on a developer's laptop too; [`smmu`] reaches its hardware through a
//! register block and memory that a test can play. What needs EL2 is behind a door of its own.
#![no_std]
// UNSAFETY: device registers, memory that the SMMU shares, and the pages of the guest are reached through
// addresses that hardware chose. `smmu::block`, `smmu` and `world` hold all of it.
#![expect(unsafe_code, reason = "registers, DMA memory and guest pages are raw addresses")]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod iommu_map;
pub mod smmu;

#[cfg(target_os = "none")]
pub mod mediation;
#[cfg(target_os = "none")]
pub mod recorder;
#[cfg(target_os = "none")]
pub mod world;
