//! The images for EL2 that a release's `oche` carries.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lzma_rust2::{XzOptions, XzWriter};
use oche::el2::{self, Toolchain};
use oche::progress::Step;
use oche::workspace;

/// The packages whose images ship; `tools/oche/build.rs` has the same list.
pub(crate) const PACKAGES: [&str; 3] = ["oche-m1", "oche-m1-probe", el2::PACKAGE];
/// xz's preset: the files are small, and read more often than written.
const PRESET: u32 = 9;

/// Builds the images, and writes each to `folder` as `OCHE_EMBED` needs them. Returns the paths of
/// the ELF files.
///
/// # Errors
///
/// One does not compile, or cannot be written.
pub(crate) fn embed(toolchain: Toolchain, folder: &Path, step: &Step) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for package in PACKAGES {
        let elf = el2::build_package(toolchain, package, &[], step)?;
        let bytes = fs::read(&elf).with_context(|| format!("cannot read {}", elf.display()))?;
        let path = folder.join(format!("{package}.elf.xz"));
        let compressed = compress(&bytes)?;
        // A file that is written anew has cargo compile what it is part of.
        if fs::read(&path).ok().as_ref() != Some(&compressed) {
            workspace::write_whole(&path, &compressed)?;
        }
        files.push(elf);
    }
    Ok(files)
}

/// Compresses with xz: the same bytes give the same bytes.
fn compress(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut writer = XzWriter::new(Vec::new(), XzOptions::with_preset(PRESET)).context("xz")?;
    writer.write_all(bytes).context("xz")?;
    writer.finish().context("xz")
}
