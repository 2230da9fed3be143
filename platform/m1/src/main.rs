//! Oche on an M1: wires the parts together, and decides nothing.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod bare;

/// On a developer's machine there is nothing to run: this binary is an image for EL2.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("oche-m1 is built for aarch64-unknown-none-softfloat");
}
