//! QEMU's virt machine, with an SMMUv3 that uses 16 KiB pages only, in place of a Mac's DARTs.
//!
//! The modules here also run on a developer's computer: [`smmu`] accesses its hardware through
//! registers and memory that a test can model. Modules that need EL2 are in `bare`.
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
pub mod memory;
pub mod port;
pub mod smmu;
