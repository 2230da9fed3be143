//! What Oche is measured against: a reference DART, a strict simulated machine, and random
//! programs.
//!
//! ```text
//!            program ----> the engine in the simulated machine ----+
//!               |                                             +--> the same? if not, a shorter program
//!               +--------> the reference ---------------------+
//! ```

pub mod differential;
pub mod program;
pub mod random;
pub mod shrink;
pub mod simulated_machine;
pub mod soak;
pub mod trap;
pub mod wild;
