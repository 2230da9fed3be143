//! The version of this program, and of the images that it carries.

use anyhow::{Context, Result};
use oche_types::identity;

use crate::embedded;

/// Version and commit, as `oche -V` shows them.
pub const SHORT: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("OCHE_BUILT_FROM"), ")");

/// The same, and a line for each image that this program carries.
///
/// # Errors
///
/// This program's own file is damaged.
pub fn long() -> Result<String> {
    let mut text = SHORT.to_owned();
    for (package, elf) in embedded::all()? {
        let identity = identity::find(&elf)
            .with_context(|| format!("the image {package} in this program has no identity"))?;
        text.push_str(&format!("\nOche for {}: {identity}", identity.board));
    }
    Ok(text)
}
