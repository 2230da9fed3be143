//! Leaves the CPUs of a simulated M1 as m1n1 leaves a Mac's, and enters the image.
//!
//! What it leaves: EL2 with E2H and TGE set, MMU and caches off, wild vectors at EL1, timers masked
//! and on, and every other CPU waiting for a word in a table. Source: `docs/hardware/m1-cpu.md`,
//! "Entry from m1n1".
#![cfg_attr(target_os = "none", no_std, no_main)]
// UNSAFETY: this is assembly.
#![cfg_attr(target_os = "none", expect(unsafe_code, reason = "assembly"))]

#[cfg(target_os = "none")]
mod bare;

/// On a developer's machine there is nothing to run: this binary is firmware.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("oche-guest-m1n1-stub is built for aarch64-unknown-none-softfloat");
}
