//! A Mac's own device tree, compiled from the distribution's kernel source.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use oche::progress::Step;
use oche::{command, workspace};

use crate::guest::archive::{self, Archive};

/// The suite and the package that have the sources.
const SUITE: &str = "bookworm";
const PACKAGE: &str = "linux-source-6.1";
/// The Mac: a MacBook Air.
const SOURCE: &str = "t8103-j313.dts";

/// The blob as its sources compile, from the cache if it is there.
///
/// # Errors
///
/// The archive has no such sources, or the compiler is missing or refuses them.
pub(super) fn compiled(step: &Step) -> Result<Vec<u8>> {
    let folder = workspace::cache().join("sources").join("device-trees");
    let _lock = workspace::FolderLock::wait(&folder)?;
    let blob = folder.join(SOURCE).with_extension("dtb");
    if !blob.is_file() {
        let top = folder.join(PACKAGE);
        if !top.join("arch/arm64/boot/dts/apple").join(SOURCE).is_file() {
            extract(&folder, step)?;
        }
        step.detail("compiling a Mac's device tree");
        let preprocessed = preprocess(&top)?;
        compile(&preprocessed, &blob)?;
    }
    fs::read(&blob).with_context(|| format!("cannot read {}", blob.display()))
}

/// Takes the device trees and what they include out of the source package.
fn extract(folder: &Path, step: &Step) -> Result<()> {
    let archive = Archive::open(SUITE)?;
    let package = archive.package(PACKAGE, "all", step)?;
    let debs = archive.download(std::slice::from_ref(&package), step)?;
    let [deb] = debs.as_slice() else {
        bail!("the archive gave {} files for one package", debs.len())
    };
    step.detail("taking the device trees out of the kernel's source");
    archive::extract_source(
        deb,
        PACKAGE,
        &["arch/arm64/boot/dts/apple", "include/dt-bindings"],
        folder,
    )
}

/// Resolves includes and names of numbers, as the kernel's own build does.
fn preprocess(top: &Path) -> Result<PathBuf> {
    let source = top.join("arch/arm64/boot/dts/apple").join(SOURCE);
    let into = source.with_extension("dts.flat");
    let mut compiler = Command::new("aarch64-linux-gnu-gcc");
    compiler.args(["-E", "-nostdinc", "-undef", "-D__DTS__", "-x", "assembler-with-cpp", "-I"]);
    compiler.arg(top.join("include")).arg("-o").arg(&into).arg(&source);
    command::run(&mut compiler, "preprocessing a Mac's device tree")?;
    Ok(into)
}

fn compile(source: &Path, into: &Path) -> Result<()> {
    let unfinished = into.with_extension("new");
    let mut compiler = Command::new("dtc");
    compiler.args(["-q", "-I", "dts", "-O", "dtb", "-o"]).arg(&unfinished).arg(source);
    command::run(&mut compiler, "compiling a Mac's device tree")?;
    fs::rename(&unfinished, into).with_context(|| format!("cannot write {}", into.display()))
}
