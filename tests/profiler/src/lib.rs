//! A QEMU TCG plugin that counts how often each instruction of Oche's image is executed.
//!
//! # Use
//!
//! ```text
//! qemu-system-aarch64 -plugin liboche_profiler.so,image=START-END,counts=FILE
//! ```
//!
//! `image` is Oche's code in memory, hexadecimal, with the end outside. `counts` is a file that the
//! plugin makes: a 64-bit counter in the host's byte order for each word of the code. The counters
//! lie in memory that is shared with that file, so the file has what was executed so far while
//! the machine is stopped.
//!
//! # Cost and limits
//!
//! QEMU 7 adds to a counter inline, without a call, so a run takes little longer than without the
//! plugin; QEMU 10 calls the plugin for each instruction. An addition is not atomic: counts are
//! exact where one thread executes all CPUs, which `-icount` sees to.
//!
//! Source of the interface: QEMU documentation, "QEMU TCG Plugins", API versions 1 and 4.

// The test program is linked without QEMU.
#[cfg(not(test))]
mod api;
mod counters;
