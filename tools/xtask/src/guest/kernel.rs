//! A distribution's kernel, fetched and unpacked but never changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use md5::Md5;
use oche::progress::Step;
use oche::{command, workspace};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::archive::{self, Archive, Package};

/// The kernel to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelChoice {
    /// The archive's suite.
    pub suite: String,
    /// A kernel's package, or one that depends on the newest, such as `linux-image-arm64`.
    pub package: String,
}

impl KernelChoice {
    /// Debian 12's own kernel: 6.1, 4 KiB pages, no DART driver.
    #[must_use]
    pub fn stock() -> Self {
        Self { suite: "bookworm".to_owned(), package: "linux-image-arm64".to_owned() }
    }

    /// The folder that keeps this choice between runs.
    fn folder(&self) -> PathBuf {
        workspace::cache().join("kernels").join(format!("{}-{}", self.suite, self.package))
    }
}

/// A kernel on disk, as its package has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GuestKernel {
    /// The suite it came from.
    pub suite: String,
    /// Its package's name.
    pub package: String,
    /// Its package's version, such as `6.1.192-2`.
    pub version: String,
    /// The output of `uname -r` in the guest.
    pub release: String,
    /// The package file.
    pub deb: PathBuf,
    /// Its SHA-256, in hex.
    pub deb_sha256: String,
    /// The folder the package was unpacked into.
    pub root: PathBuf,
    /// The kernel's image there.
    pub image: PathBuf,
    /// Its SHA-256, in hex.
    pub image_sha256: String,
    /// The MD5 that the package itself records for the image, which the unpacked file was compared
    /// with.
    pub image_md5: String,
}

impl GuestKernel {
    /// The folder with the kernel's modules and their indexes.
    #[must_use]
    pub fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.release)
    }

    /// The folder beside the unpacked kernel, for what is built for it.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.root.parent().map_or_else(|| self.root.clone(), Path::to_path_buf)
    }

    /// Compares the image on disk with the package's own record of it.
    ///
    /// # Errors
    ///
    /// The image cannot be read, or is not byte for byte the package's.
    pub fn verify(&self) -> Result<()> {
        let image = fs::read(&self.image)
            .with_context(|| format!("cannot read the kernel {}", self.image.display()))?;
        if hex(&Md5::digest(&image)) != self.image_md5
            || hex(&Sha256::digest(&image)) != self.image_sha256
        {
            bail!(
                "{} is no longer byte for byte the kernel of package {} {}: delete {} and run it again",
                self.image.display(),
                self.package,
                self.version,
                self.folder().display()
            );
        }
        Ok(())
    }
}

/// Gives a kernel of the distribution: from the cache if it is there, else from the archive.
///
/// # Errors
///
/// The archive cannot be reached or has no such kernel, the disk is full, or the unpacked image is
/// not the package's.
pub fn fetch(choice: &KernelChoice, step: &Step) -> Result<GuestKernel> {
    let archive = Archive::open(&choice.suite)?;
    let folder = choice.folder();
    let _lock = workspace::FolderLock::wait(&folder)?;
    if let Some(kept) = kept(&folder) {
        kept.verify()?;
        step.detail(&format!("{} {} is in the cache", kept.package, kept.version));
        return Ok(kept);
    }
    let package = resolve(&archive, &choice.package, step)?;
    let debs = archive.download(std::slice::from_ref(&package), step)?;
    let [deb] = debs.as_slice() else {
        bail!("the archive gave {} files for one package", debs.len())
    };
    let root = folder.join("root");
    workspace::remove_folder(&root)?;
    step.detail(&format!("unpacking {}", package.name));
    archive::unpack(std::slice::from_ref(deb), &root)?;
    let kernel = describe(choice, &package, deb, &root)?;
    kernel.verify()?;
    index_modules(&kernel)?;
    // Last, since its presence means that all of the above is done.
    workspace::write_whole(&folder.join("kernel.json"), &serde_json::to_vec_pretty(&kernel)?)?;
    Ok(kernel)
}

/// Forgets a kernel and its modules, so that the next [`fetch`] asks the archive for the newest.
///
/// # Errors
///
/// The archive cannot be reached, or the cache cannot be written.
pub fn refresh(choice: &KernelChoice, step: &Step) -> Result<()> {
    Archive::open(&choice.suite)?.update(step)?;
    workspace::remove_folder(&choice.folder())
}

fn kept(folder: &Path) -> Option<GuestKernel> {
    let text = fs::read(folder.join("kernel.json")).ok()?;
    let kernel: GuestKernel = serde_json::from_slice(&text).ok()?;
    // A checkout that was moved has other paths.
    (kernel.image.is_file() && kernel.root.starts_with(folder)).then_some(kernel)
}

/// Follows a package that only points to the newest kernel.
fn resolve(archive: &Archive, name: &str, step: &Step) -> Result<Package> {
    let package = archive.package(name, "arm64", step)?;
    match package.dependency("linux-image-") {
        Some(newest) => archive.package(newest, "arm64", step),
        None => Ok(package),
    }
}

fn describe(
    choice: &KernelChoice,
    package: &Package,
    deb: &Path,
    root: &Path,
) -> Result<GuestKernel> {
    let boot = root.join("boot");
    let name = fs::read_dir(&boot)
        .with_context(|| format!("package {} has no /boot: is it a kernel?", package.name))?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .find(|name| name.starts_with("vmlinuz-"))
        .with_context(|| format!("package {} has no kernel in /boot", package.name))?;
    let image = boot.join(&name);
    let release = name.trim_start_matches("vmlinuz-").to_owned();
    let bytes = fs::read(&image).with_context(|| format!("cannot read {}", image.display()))?;
    let package_bytes = fs::read(deb).with_context(|| format!("cannot read {}", deb.display()))?;
    Ok(GuestKernel {
        suite: choice.suite.clone(),
        package: package.name.clone(),
        version: package.version.clone(),
        release,
        deb: deb.to_owned(),
        deb_sha256: hex(&Sha256::digest(&package_bytes)),
        root: root.to_owned(),
        image_sha256: hex(&Sha256::digest(&bytes)),
        image_md5: recorded_md5(deb, &format!("boot/{name}"))?,
        image,
    })
}

/// The MD5 that a package records for one of its files.
fn recorded_md5(deb: &Path, file: &str) -> Result<String> {
    let control = Command::new("dpkg-deb")
        .args(["--info"])
        .arg(deb)
        .arg("md5sums")
        .output()
        .context("cannot start dpkg-deb: is this Debian?")?;
    let text = String::from_utf8_lossy(&control.stdout);
    text.lines()
        .filter_map(|line| line.split_once("  "))
        .find(|(_, path)| path.trim() == file)
        .map(|(sum, _)| sum.to_owned())
        .with_context(|| format!("{} records no checksum for {file}", deb.display()))
}

/// Writes the indexes that the distribution's own installer would write, `modules.dep` above all.
fn index_modules(kernel: &GuestKernel) -> Result<()> {
    // Newer releases keep modules under /usr/lib and rely on the installed system's link.
    let lib = kernel.root.join("lib");
    if !lib.join("modules").exists()
        && kernel.root.join("usr/lib/modules").is_dir()
        && !lib.exists()
    {
        std::os::unix::fs::symlink("usr/lib", &lib)
            .with_context(|| format!("cannot link {}", lib.display()))?;
    }
    let depmod = command::find("depmod").unwrap_or_else(|| PathBuf::from("depmod"));
    command::run(
        Command::new(depmod).arg("-b").arg(&kernel.root).arg(&kernel.release),
        "indexing the kernel's modules",
    )
}

/// Bytes as lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
