//! Everything that builds, packs, boots and examines Oche on a developer's own machine.

/// Tells the person who watches, on standard error. Where that cannot be written nobody is there to be told.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}

pub mod check;
pub mod command;
#[cfg(test)]
mod contract;
pub mod demo;
pub mod destination;
#[cfg(test)]
mod documents;
pub mod el2;
pub mod environment;
pub mod guest;
pub mod hostile;
pub mod m1;
pub mod measure;
pub mod mutants;
pub mod ordering;
pub mod pack;
pub mod pictures;
pub mod progress;
pub mod qemu;
pub mod run;
pub mod setup;
pub mod soak;
pub mod test;
pub mod trace;
pub mod workspace;
