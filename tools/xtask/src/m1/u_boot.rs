//! Debian's U-Boot for Apple's machines, as its package has it.

use std::path::PathBuf;

use anyhow::{Result, bail};
use oche::progress::Step;
use oche::workspace;

use crate::guest::archive::{self, Archive, Package};

/// The suite and the package. Older releases have none.
const SUITE: &str = "trixie";
const PACKAGE: &str = "u-boot-asahi";
/// The binary in the package: without a device tree, as m1n1 takes it.
const BINARY: &str = "usr/lib/u-boot/apple_m1/u-boot-nodtb.bin";

/// The unpacked binary.
#[derive(Clone, Debug)]
pub struct UBoot {
    /// The package's version.
    pub version: String,
    /// The binary.
    pub binary: PathBuf,
}

/// Asks the archive for the newest package, whatever is in the cache.
///
/// # Errors
///
/// The archive cannot be reached.
pub fn refresh(step: &Step) -> Result<()> {
    Archive::open(SUITE)?.update(step)
}

/// Gives the binary from the cache, or fetches the package that the archive's list names.
///
/// # Errors
///
/// The archive cannot be reached or has no such package.
pub fn fetch(step: &Step) -> Result<UBoot> {
    let archive = Archive::open(SUITE)?;
    let package: Package = archive.package(PACKAGE, "arm64", step)?;
    let folder = workspace::cache().join("u-boot").join(package.version.replace(':', "%3a"));
    let _lock = workspace::FolderLock::wait(&folder)?;
    let binary = folder.join(BINARY);
    if !binary.is_file() {
        let debs = archive.download(std::slice::from_ref(&package), step)?;
        step.detail(&format!("unpacking {PACKAGE}"));
        archive::unpack(&debs, &folder)?;
    }
    if !binary.is_file() {
        bail!("package {PACKAGE} {} has no {BINARY}", package.version);
    }
    Ok(UBoot { version: package.version, binary })
}
