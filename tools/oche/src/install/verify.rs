//! A boot file, compared with what has to be in it before m1n1 may get it.

use anyhow::{Context, Result, bail};

use crate::inspect::boot_file::{BootFile, Content, End, KernelPayload};

/// The start of the lines of m1n1's configuration that every known script copies.
const COPIED: [&str; 2] = ["chosen.", "display="];

/// What has to be in a boot file.
#[derive(Debug)]
pub(super) struct Expected<'a> {
    /// m1n1's own file.
    pub(super) m1n1: &'a [u8],
    /// The files of the device trees, and their bytes.
    pub(super) trees: &'a [(String, Vec<u8>)],
    /// m1n1's configuration.
    pub(super) configuration: &'a str,
    /// The kernel that m1n1 starts.
    pub(super) kernel: &'a [u8],
    /// The Mac, such as `apple,j313`.
    pub(super) mac: &'a str,
}

/// Sees that m1n1 takes from `file`, on this Mac, exactly what is expected.
///
/// # Errors
///
/// It does not; the error says what is amiss.
pub(super) fn check(file: &[u8], expected: &Expected<'_>) -> Result<()> {
    let boot_file = read(file)?;
    if !file.starts_with(expected.m1n1) {
        bail!("m1n1 in it is not the installed one");
    }
    let taken = boot_file.taken(Some(expected.mac));
    if let Some(error) = taken.errors.first() {
        bail!("{error}");
    }
    if boot_file.end != End::EndOfFile {
        bail!("m1n1 does not read it to its end");
    }
    let (_, kernel) = boot_file.kernel().context("m1n1 finds no kernel in it")?;
    if kernel.image != expected.kernel {
        bail!("the kernel that m1n1 takes is not the packed one");
    }
    let place = taken.trees.first().map(|(_, offset)| *offset as usize);
    let tree = place.and_then(|offset| file.get(offset..)).unwrap_or_default();
    if !expected.trees.iter().any(|(_, bytes)| !bytes.is_empty() && tree.starts_with(bytes)) {
        bail!("the device tree that m1n1 takes for {} is none of DTBS", expected.mac);
    }
    for line in expected.configuration.lines() {
        let is_copied = COPIED.iter().any(|start| line.starts_with(start)) && line.contains('=');
        let is_there = |content: &Content| match content {
            Content::Variable { name, value } => format!("{name}={value}") == line.trim(),
            _ => false,
        };
        if is_copied && !boot_file.payloads.iter().any(|payload| is_there(&payload.content)) {
            bail!("`{line}` of m1n1's configuration is missing in it");
        }
    }
    Ok(())
}

/// Reads a boot file.
///
/// # Errors
///
/// It is none.
pub(super) fn read(file: &[u8]) -> Result<BootFile> {
    BootFile::read(file)?.context("m1n1 is not in it")
}

/// What a boot file starts.
#[derive(Debug)]
pub(super) enum Starts {
    /// Oche, and its image's SHA-256 in hex.
    Oche(String),
    /// U-Boot, with its version.
    UBoot(String),
    /// Something else, in a few words.
    Other(String),
}

/// What the boot file `file` starts.
pub(super) fn starts(file: &[u8]) -> Starts {
    let boot_file = match read(file) {
        Ok(boot_file) => boot_file,
        Err(error) => return Starts::Other(format!("{error:#}")),
    };
    if let End::Refused { offset, reason } = &boot_file.end {
        return Starts::Other(format!("m1n1 stops at {offset:#x}: {reason}"));
    }
    match boot_file.kernel() {
        None => Starts::Other("m1n1 finds no kernel in it".to_owned()),
        Some((_, kernel)) => starts_kernel(kernel),
    }
}

fn starts_kernel(kernel: &KernelPayload) -> Starts {
    match (&kernel.oche, &kernel.damage, &kernel.banner) {
        (Some(_), ..) => Starts::Oche(kernel.sha256.clone()),
        (_, Some(damage), _) => Starts::Other(format!("Oche in it is damaged: {damage}")),
        (_, _, Some(banner)) if oche_boot::banner::is_u_boot(&kernel.image) => {
            Starts::UBoot(banner.clone())
        }
        (_, _, Some(banner)) => Starts::Other(banner.clone()),
        _ => Starts::Other("a kernel that does not say what it is".to_owned()),
    }
}
