//! The trace: events as records of four words, the rings and the directory that hold them, the
//! control block by which others ask for them, the file that is made of them, and their text.
//!
//! EL2 writes it and the tools read it, with the same code.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod call_chain;
pub mod control;
pub mod directory;
pub mod export;
pub mod file;
pub mod filter;
pub mod layout;
pub mod record;
pub mod ring;
pub mod snapshot;
pub mod statistics;
pub mod text;
pub mod words;
