//! The stamp of an image of Oche: the commit that it was built from, and its build id.
//!
//! Both are written into the record that the linked file has (`oche_types::identity`). So a commit
//! that leaves the code alone compiles nothing anew, and the build id covers every byte that a
//! machine loads, the commit among them.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use oche_types::identity::{self, BuildId, NO_COMMIT};
use sha2::{Digest, Sha256};

use crate::linked_image::flatten;

/// Names the commit where there is no git to ask, as for a build from a source archive.
const COMMIT_VARIABLE: &str = "OCHE_COMMIT";

/// Writes `commit` and the build id into the ELF file of an image, if it has a record for them: a
/// guest of the tests has none.
///
/// # Errors
///
/// It has several records, or cannot be laid out.
pub fn stamp(elf: &mut [u8], commit: &str) -> Result<()> {
    let Some(at) = identity::position(elf) else { return Ok(()) };
    let behind = elf.get(at + identity::RECORD_BYTES..).unwrap_or_default();
    if identity::position(behind).is_some() {
        bail!("two records of the image's identity are in it");
    }
    identity::stamp(elf.get_mut(at..).unwrap_or_default(), commit, None);
    let build = BuildId::of_hash(&Sha256::digest(flatten(elf)?).into());
    identity::stamp(elf.get_mut(at..).unwrap_or_default(), commit, Some(build));
    Ok(())
}

/// The commit that the checkout at `root` is at: twelve digits, and `-dirty` if tracked files have
/// changed; `unknown` without git. The variable `OCHE_COMMIT` goes before.
#[must_use]
pub fn commit(root: &Path) -> String {
    let named = std::env::var(COMMIT_VARIABLE).unwrap_or_default();
    if !named.is_empty() {
        return named;
    }
    let git = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
        .current_dir(root)
        .output();
    match git {
        Ok(git) if git.status.success() => String::from_utf8_lossy(&git.stdout).trim().to_owned(),
        _ => NO_COMMIT.to_owned(),
    }
}
