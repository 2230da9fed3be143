//! The images for EL2 that this `oche` carries: the ELF files of a release, with symbols and line
//! tables. One that cargo built in a checkout carries none (`build.rs`).

use std::io::Read;

use anyhow::{Context, Result};
use lzma_rust2::XzReader;

// `IMAGES`: the package's name, and its ELF file compressed with xz.
include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// Bytes that an image may have; the largest has some 3 MiB.
const LIMIT: u64 = 64 << 20;

/// Whether there are any.
#[must_use]
pub fn is_empty() -> bool {
    IMAGES.is_empty()
}

/// The ELF file of a package, if it is carried.
///
/// # Errors
///
/// This program's own file is damaged.
pub fn elf(package: &str) -> Result<Option<Vec<u8>>> {
    let found = IMAGES.iter().find(|(name, _)| *name == package);
    found.map(|(name, compressed)| expand(name, compressed)).transpose()
}

/// All ELF files, by the package of each.
///
/// # Errors
///
/// As [`elf`].
pub fn all() -> Result<Vec<(&'static str, Vec<u8>)>> {
    IMAGES.iter().map(|(name, bytes)| Ok((*name, expand(name, bytes)?))).collect()
}

fn expand(name: &str, compressed: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = XzReader::new(compressed, false).take(LIMIT).read_to_end(&mut bytes);
    read.with_context(|| format!("the image {name} in this program is damaged: get it anew"))?;
    Ok(bytes)
}
