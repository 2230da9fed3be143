//! `cargo xtask test`.

use anyhow::{Result, bail};

/// Options of `cargo xtask test`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {}

/// Carries out `cargo xtask test`.
///
/// # Errors
///
/// Always, until it is built.
pub fn main(_options: &Options) -> Result<()> {
    bail!("not built yet")
}
