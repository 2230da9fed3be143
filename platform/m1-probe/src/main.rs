//! The probe of an M1: measures, shows its report, and starts U-Boot if one is packed.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod bare;

/// On a developer's machine there is nothing to run: this binary is an image for EL2.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("oche-m1-probe is built for aarch64-unknown-none-softfloat");
}
