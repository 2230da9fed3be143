//! What Oche is measured against: a reference DART, a strict simulated machine, and random programs.
//!
//! ```text
//!            program ----> the engine in the strict world ----+
//!               |                                             +--> the same? if not, a shorter program
//!               +--------> the reference ---------------------+
//! ```

pub mod differential;
pub mod program;
pub mod random;
pub mod shrink;
pub mod soak;
pub mod trap;
pub mod wild;
pub mod world;
