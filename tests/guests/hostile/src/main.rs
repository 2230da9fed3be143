//! A hostile guest: it does at EL1 what no kernel does, and prints on the console what came of it.
//!
//! One line for each case, `guest: NAME ok` or `guest: NAME FAILED: why`, then `guest: N cases, M
//! failed`, then PSCI SYSTEM_OFF. With `hostile=panic`, `hostile=fault` or `hostile=overflow` on
//! its command line it asks an Oche that was built for it to panic instead. With `hostile=idle` it
//! idles and makes exits, and with `hostile=exits` it counts what each exit costs at EL2.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod bare;

/// On a developer's machine there is nothing to run: this binary is a guest.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("oche-guest-hostile is built for aarch64-unknown-none-softfloat");
}
