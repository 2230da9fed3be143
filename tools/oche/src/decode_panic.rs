//! `oche decode-panic`: the functions that the addresses in a panic's message lie in.
//!
//! The text may be a log of the serial port or typed from a photograph of the screen.

pub mod command;
mod reading;
mod symbols;
