//! The part of the board that accesses registers, and exists only for bare metal: what Oche and the
//! probe share.
// UNSAFETY: device registers are raw addresses, and this module knows which are where.
#![expect(unsafe_code, reason = "device registers are raw addresses")]

pub mod board;
pub mod console;
pub mod hardware;
pub mod port;
pub mod power;
pub mod selftest;
