//! `oche` with its images inside needs no checkout, no other program, and no environment.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};
use oche::el2::Toolchain;
use oche::progress::Step;
use oche::{command, stamp, workspace};
use oche_boot::header;
use oche_types::identity;

use crate::dist::images;

/// Builds an `oche` that carries its images, and uses it in an empty folder with an empty
/// environment.
///
/// # Errors
///
/// It does not work there, or works by another image than it carries.
pub(super) fn run(toolchain: Toolchain, step: &Step) -> Result<String> {
    let target = workspace::target().join("carried");
    let embedded = target.join("embed");
    let files = images::embed(toolchain, &embedded, step)?;
    let program = build(&target, &embedded, step)?;
    let folder = tempfile::tempdir().context("a folder")?;
    // A copy, as an archive has it: nothing of the build is beside it.
    let alone = folder.path().join("oche");
    fs::copy(&program, &alone).context("a copy of the program")?;
    let kernel = folder.path().join("kernel");
    fs::write(&kernel, kernel_image()).context("a kernel")?;

    let version = text(&alone, folder.path(), &["--version"])?;
    for file in &files {
        let bytes = fs::read(file)?;
        let identity = identity::find(&bytes).context("an image without identity")?;
        let line = format!("Oche for {}: {identity}", identity.board);
        if !version.lines().any(|found| found == line) {
            bail!("--version does not have `{line}`: {version}");
        }
    }
    let packed = text(&alone, folder.path(), &["pack", "--kernel", "kernel", "--output", "o.img"])?;
    let bytes = fs::read(files.first().context("no image")?)?;
    let identity = identity::find(&bytes).context("an image without identity")?;
    let line = format!("oche     {identity} for m1");
    if !packed.contains(&line) || !folder.path().join("o.img.gz").is_file() {
        bail!("`oche pack` prints no `{line}`: {packed}");
    }
    text(&alone, folder.path(), &["probe", "--output", "p.img"])?;
    Ok("--version, pack and probe, without checkout and environment".to_owned())
}

/// Builds `oche` with the images in `embedded`, in a folder of its own: cargo would compile it anew
/// at each change between with and without.
fn build(target: &Path, embedded: &Path, step: &Step) -> Result<PathBuf> {
    step.detail("compiling oche with its images");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace::root()).args(["build", "--package", "oche", "--bin", "oche"]);
    cargo.env("CARGO_TARGET_DIR", target).env("OCHE_EMBED", embedded);
    cargo.env("OCHE_COMMIT", stamp::commit(&workspace::root()));
    command::run_showing_errors(&mut cargo, "building oche with its images", step)?;
    Ok(target.join("debug/oche"))
}

/// Runs `program` in `folder` with nothing in its environment, and gives what it prints.
fn text(program: &Path, folder: &Path, arguments: &[&str]) -> Result<String> {
    let Output { status, stdout, stderr } =
        Command::new(program).args(arguments).current_dir(folder).env_clear().output()?;
    if !status.success() {
        bail!("oche {}: {}", arguments.join(" "), String::from_utf8_lossy(&stderr));
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// A kernel that the packer accepts: a header, and nothing behind it.
fn kernel_image() -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    let fields: [(usize, &[u8]); 3] = [
        (header::IMAGE_SIZE, &0x1_0000_u64.to_le_bytes()),
        (header::FLAGS, &[0b1010]),
        (header::MAGIC_OFFSET, &header::MAGIC),
    ];
    for (offset, field) in fields {
        bytes[offset..offset + field.len()].copy_from_slice(field);
    }
    bytes
}
