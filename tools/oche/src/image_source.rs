//! Where the ELF file of an image for EL2 comes from: the file that was named, this program, or the
//! checkout that it was built in.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::progress::Progress;
use crate::{el2, embedded, environment, workspace};

/// An ELF file of an image for EL2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OcheElf {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Where it is from, for messages.
    pub origin: String,
}

impl OcheElf {
    /// Reads it from a file.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let origin = path.display().to_string();
        let bytes =
            fs::read(path).with_context(|| format!("cannot read Oche's own image {origin}"))?;
        Ok(Self { bytes, origin })
    }
}

/// The ELF file of `package`: the file `named`, or the one in this program, or what the checkout
/// builds. `what` names the work of building it.
///
/// # Errors
///
/// The file cannot be read, it cannot be built, or there is neither an image nor a checkout.
pub fn oche_elf(package: &str, named: Option<&Path>, what: &str) -> Result<OcheElf> {
    if let Some(path) = named {
        return OcheElf::read(path);
    }
    if let Some(bytes) = embedded::elf(package)? {
        return Ok(OcheElf { bytes, origin: format!("the image {package} in this program") });
    }
    if workspace::checkout().is_none() {
        bail!(
            "this `oche` carries no image, and the checkout that it was built in is gone: name Oche's \
             ELF file with --oche FILE, or use the `oche` of a release"
        );
    }
    let progress = Progress::new(1);
    let step = progress.step(what);
    let toolchain = environment::prepare(&[], &step)?;
    let elf = el2::build_package(toolchain, package, &[], &step)?;
    step.done("");
    OcheElf::read(&elf)
}
