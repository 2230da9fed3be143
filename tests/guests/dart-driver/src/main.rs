//! A guest of the simulated M1: it does to the DARTs what drivers do, and prints on the console
//! what came of it.
//!
//! One line for each case, `guest: NAME ok` or `guest: NAME FAILED: why`, then `guest: N cases, M
//! failed`.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod bare;

/// On a developer's machine there is nothing to run: this binary is a guest.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("oche-guest-dart-driver is built for aarch64-unknown-none-softfloat");
}
