//! The binary of Oche for QEMU's virt machine.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod bare;

/// This binary is an image for EL2 and does nothing on a developer's computer.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("oche-qemu-virt is built for aarch64-unknown-none-softfloat");
}
