//! `cargo xtask run`.

use anyhow::{Result, bail};

/// Options of `cargo xtask run`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {}

/// Carries out `cargo xtask run`.
///
/// # Errors
///
/// Always, until it is built.
pub fn main(_options: &Options) -> Result<()> {
    bail!("not built yet")
}
