//! Macs' own device trees, compiled from the distribution's kernel source.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context, Result, bail};
use oche::progress::Step;
use oche::{command, workspace};

use crate::guest::archive::{self, Archive, Package};

/// The names of M1 Macs' sources begin with this.
const M1: &str = "t8103-";
/// The simulated board's Mac: a MacBook Air.
const BOARD: &str = "t8103-j313.dts";
const DEVICE_TREES: &str = "arch/arm64/boot/dts/apple";
const BINDINGS: &str = "include/dt-bindings";
/// The options of the kernel and what they build; the sign that they are there.
const OPTIONS: [&str; 4] =
    ["arch/arm64/Kconfig*", "drivers/*Kconfig*", "drivers/*Makefile", "sound/soc/apple/*"];
const OPTIONS_SIGN: &str = "drivers/iommu/Kconfig";

/// A version of the kernel's source.
#[derive(Debug)]
pub(crate) struct KernelSource {
    archive: Archive,
    package: Package,
}

impl KernelSource {
    /// Linux 6.1, of which the simulated board's tree is.
    ///
    /// # Errors
    ///
    /// The archive cannot be reached.
    pub(crate) fn of_the_board(step: &Step) -> Result<Self> {
        let archive = Archive::open("bookworm")?;
        let package = archive.package("linux-source-6.1", "all", step)?;
        Ok(Self { archive, package })
    }

    /// The newest that Debian has.
    ///
    /// # Errors
    ///
    /// The archive cannot be reached.
    pub(crate) fn newest(step: &Step) -> Result<Self> {
        let archive = Archive::open("sid")?;
        archive.update(step)?;
        let newest = archive.package("linux-source", "all", step)?;
        let name = newest.dependency("linux-source-").context("linux-source names no version")?;
        let package = archive.package(name, "all", step)?;
        Ok(Self { archive, package })
    }

    /// The package's name and version.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.package.name, self.package.version)
    }

    /// The compiled trees of all M1 Macs, by path, in order.
    ///
    /// # Errors
    ///
    /// The archive has no such sources, or the compiler is missing or refuses one.
    pub(crate) fn device_trees(&self, step: &Step) -> Result<Vec<PathBuf>> {
        let top = self.extracted(step)?;
        let entries = fs::read_dir(top.join(DEVICE_TREES)).context("the device trees")?;
        let mut names: Vec<String> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with(M1) && name.ends_with(".dts"))
            .collect();
        names.sort();
        if names.is_empty() {
            bail!("{} has no device tree of an M1", self.name());
        }
        names.iter().map(|name| compiled(&top, name, step)).collect()
    }

    /// The folder with the `Kconfig` files and `Makefile`s of drivers.
    ///
    /// # Errors
    ///
    /// The archive has no such sources.
    pub(crate) fn options(&self, step: &Step) -> Result<PathBuf> {
        self.extracted(step)
    }

    /// The folder with the device trees, what they include, and the kernel's options.
    fn extracted(&self, step: &Step) -> Result<PathBuf> {
        let package = &self.package;
        let cache = workspace::cache().join("sources").join("device-trees");
        let folder = cache.join(&package.version);
        let _lock = workspace::FolderLock::wait(&folder)?;
        let top = folder.join(&package.name);
        let signs = [top.join(DEVICE_TREES).join(BOARD), top.join(OPTIONS_SIGN)];
        if !signs.iter().all(|sign| sign.is_file()) {
            let debs = self.archive.download(std::slice::from_ref(package), step)?;
            let [deb] = debs.as_slice() else {
                bail!("the archive gave {} files for one package", debs.len())
            };
            step.detail("taking device trees and options out of the kernel's source");
            let members = [&[DEVICE_TREES, BINDINGS], &OPTIONS[..]].concat();
            archive::extract_source(deb, &package.name, &members, &folder)?;
        }
        Ok(top)
    }
}

/// The blob of the simulated board's Mac as its sources compile, from the cache if it is there.
///
/// # Errors
///
/// The archive has no such sources, or the compiler is missing or refuses them.
pub(super) fn of_the_board(step: &Step) -> Result<Vec<u8>> {
    let top = KernelSource::of_the_board(step)?.extracted(step)?;
    let blob = compiled(&top, BOARD, step)?;
    fs::read(&blob).with_context(|| format!("cannot read {}", blob.display()))
}

/// Compiles the source `name` below `top`, if that was not done before.
fn compiled(top: &Path, name: &str, step: &Step) -> Result<PathBuf> {
    let source = top.join(DEVICE_TREES).join(name);
    let blob = source.with_extension("dtb");
    if !blob.is_file() {
        step.detail(&format!("compiling {name}"));
        let flat = preprocess(top, &source)?;
        compile(&flat, &blob)?;
        fs::remove_file(&flat).with_context(|| format!("cannot remove {}", flat.display()))?;
    }
    Ok(blob)
}

/// Resolves includes and names of numbers, as the kernel's own build does.
fn preprocess(top: &Path, source: &Path) -> Result<PathBuf> {
    let into = source.with_extension(format!("flat-{}", process::id()));
    let mut compiler = Command::new("aarch64-linux-gnu-gcc");
    compiler.args(["-E", "-nostdinc", "-undef", "-D__DTS__", "-x", "assembler-with-cpp", "-I"]);
    compiler.arg(top.join("include")).arg("-o").arg(&into).arg(source);
    command::run(&mut compiler, "preprocessing a Mac's device tree")?;
    Ok(into)
}

fn compile(source: &Path, into: &Path) -> Result<()> {
    let unfinished = into.with_extension(format!("new-{}", process::id()));
    let mut compiler = Command::new("dtc");
    compiler.args(["-q", "-I", "dts", "-O", "dtb", "-o"]).arg(&unfinished).arg(source);
    command::run(&mut compiler, "compiling a Mac's device tree")?;
    fs::rename(&unfinished, into).with_context(|| format!("cannot write {}", into.display()))
}
