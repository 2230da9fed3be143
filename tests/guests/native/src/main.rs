//! A kernel that firmware enters natively at EL2, in U-Boot's place: it prints the state in which
//! it was entered, as `native: NAME VALUE`, and at the end `native: end`.
//!
//! A test compares what it prints if m1n1 enters it with what it prints if Oche hands over to it.
#![cfg_attr(target_os = "none", no_std, no_main)]
// UNSAFETY: this is assembly, system registers, and memory without an MMU.
#![cfg_attr(
    target_os = "none",
    expect(unsafe_code, reason = "assembly, system registers, memory without an MMU")
)]

#[cfg(target_os = "none")]
mod bare;

/// On a developer's machine there is nothing to run: this binary is a kernel.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("oche-guest-native is built for aarch64-unknown-none-softfloat");
}
