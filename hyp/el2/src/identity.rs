//! The identity of the image that runs, as it shows it in its banner, in panics and in the trace.
#![expect(unsafe_code, reason = "a symbol of the board's crate")]

use core::hint::black_box;

use oche_types::identity::{self, Identity, NO_COMMIT, RECORD_BYTES};

unsafe extern "C" {
    /// The record of the board's crate (`oche_boot::entry!`).
    static OCHE_IDENTITY: [u8; RECORD_BYTES];
}

/// The identity of this image.
pub fn own() -> Identity<'static> {
    // The stamp has changed the bytes that the compiler knows.
    let record = black_box(&raw const OCHE_IDENTITY);
    // SAFETY: a constant of the image, which nothing writes while it runs.
    let record = unsafe { &*record };
    let none = Identity { board: NO_COMMIT, version: NO_COMMIT, commit: NO_COMMIT, build: None };
    identity::read(record).unwrap_or(none)
}
