//! A simulated M1: the image that a Mac would get, on QEMU's CPUs, with everything else modelled by
//! this process.
//!
//! QEMU's virt machine has RAM where an M1 has its registers and its DRAM. A stub leaves the CPUs
//! as m1n1 does; a Mac's own device tree describes it all. The devices' registers are memory with
//! watchpoints: each store stops the machine until the device's model has acted. It cannot show
//! Apple's CPU and interrupt controller; FIQs come from QEMU's GIC, where the kernel does not
//! want that for itself.

mod board;
pub mod completion;
pub mod dart;
pub mod debugger;
pub mod fdt_fault;
pub mod flaw;
pub mod linux;
mod mac;
pub mod memory;
pub mod nvme;
pub mod power;
mod process;
mod property;
pub mod screen;
mod serial;
mod tables;
pub mod tree;
mod u_boot;
mod usb;

pub use board::{BoardOutcome, BoardParts, DIRT, SimulatedBoard};
pub use mac::{DARTS, Mac};
pub use serial::TypedText;
