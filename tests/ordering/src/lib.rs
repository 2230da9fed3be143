//! A QEMU TCG plugin that checks the ordering of what Oche executes at EL2.
//!
//! QEMU carries out every store, TLB invalidation and cache operation at once, in program order.
//! Real CPUs do not, so code without its barriers passes every test there. This plugin sees each
//! instruction that EL2 executes and keeps, for each CPU, what the architecture has not ordered
//! yet: [`rules`] has the rules and names them.
//!
//! # Use
//!
//! ```text
//! qemu-system-aarch64 -plugin liboche_ordering_checker.so,image=START-END,report=FILE,...
//! ```
//!
//! Addresses are hexadecimal, ranges are `START-END` with the end outside; [`settings`] lists the
//! arguments. `cargo xtask test` computes them from Oche's own report of its layout and from the
//! symbols of its ELF file.
//!
//! # Report
//!
//! The file named by `report` grows by a line at a time, so that it is complete whenever QEMU ends:
//!
//! - `violation: RULE at PC in FUNCTION: ...`: a rule is broken; once for each rule and PC.
//! - `seen: NAME`: the first time that an instruction of this kind is executed inside the image.
//! - `exit: KIND CPU INSTRUCTIONS WAITED`: an exit from the guest took more instructions than any
//!   before of the same kind on the same CPU: those between the vector's first instruction and
//!   `ERET`. `WAITED` of them waited for a lock. `KIND` is the place of the counter that EL2 counts
//!   the exit in, or `none`.
//!
//! # Limits
//!
//! The plugin interface of QEMU 7.2 gives addresses of loads and stores and the bytes of
//! instructions, but no register. So the operands of `TLBI`, `DC` and `MSR` are unknown: a cleaned
//! line counts as the line that had to be cleaned. EL2 translates by the identity, so a virtual
//! address is the physical one.
//!
//! Source of the interface: QEMU documentation, "QEMU TCG Plugins", API versions 1 and 4.

// The test program is linked without QEMU.
#[cfg(not(test))]
mod api;
pub mod decode;
#[cfg(not(test))]
mod plugin;
#[cfg(not(test))]
mod report;
pub mod rules;
pub mod settings;
