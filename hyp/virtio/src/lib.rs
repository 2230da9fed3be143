//! Devices that Oche itself shows a guest, as the virtio standard describes them: pure, and every
//! value of the guest checked.
//!
//! Source of every number and rule here: Virtual I/O Device (VIRTIO) Version 1.2, OASIS,
//! 2022-07-01. Sections are named.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod console;
pub mod port;
pub mod queue;

/// Bytes of heap that a console with a trace port takes. The last term is the box of the function
/// that sets its interrupt.
pub const HEAP_BYTES: usize = console::HEAP_BYTES + port::HEAP_BYTES + 64;
