//! The M1's DARTs as hardware: the t8020 register block, and the entries of its 16K tables.
//!
//! The virtual DART and this block name the same offsets, or neither builds. What is here so far describes;
//! nothing has run on a Mac yet, and what only a Mac can answer is said where it matters.
#![no_std]
#![forbid(unsafe_code)]

pub mod entry;
pub mod registers;
