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
