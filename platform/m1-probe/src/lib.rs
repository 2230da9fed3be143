//! The probe of an M1: an image that only measures, and what its report means.
//!
//! The image is this crate's binary. Its report is lines of the self-test, which the image shows as
//! text and as codes, and which `oche probe --decode` reads on any computer. So this library, which
//! both use, needs no machine:
//!
//! ```text
//! image:  lines -> Report -> codes -> screen                 settings: which the tool writes into
//!                        \-> text -> screen, serial port                the image
//! tool:   text or codes -> reading -> assumptions
//! ```
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod assumptions;
pub mod checksum;
pub mod codes;
pub mod pages;
pub mod reading;
pub mod report;
pub mod settings;
