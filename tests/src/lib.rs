//! What Oche is measured against: a reference DART, a strict simulated machine, and random programs.

pub mod random;
pub mod reference;
pub mod world;
