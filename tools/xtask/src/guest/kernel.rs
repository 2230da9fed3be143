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

/// A kernel of Debian by its place among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum KernelSeries {
    /// Debian 12's.
    #[value(name = "6.1")]
    Bookworm,
    /// Debian 13's, the current stable release.
    #[value(name = "6.12")]
    Trixie,
    /// The newest that Debian has, in sid.
    Newest,
}

impl KernelSeries {
    /// The suite that its package is in.
    fn suite(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Newest => "sid",
        }
    }
}

/// The kernel of a command, for `#[command(flatten)]`.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct KernelOptions {
    /// Take this kernel of Debian's.
    #[arg(long, value_enum, default_value_t = KernelSeries::Trixie, conflicts_with = "suite")]
    pub kernel_series: KernelSeries,
    /// Take the kernel from this suite of Debian, such as bookworm-backports.
    #[arg(long)]
    pub suite: Option<String>,
    /// Take the kernel from this package, such as linux-image-arm64-16k.
    #[arg(long, alias = "package", default_value = PACKAGE)]
    pub kernel_package: String,
}

impl KernelOptions {
    /// The kernel that they name.
    #[must_use]
    pub fn choice(&self) -> KernelChoice {
        let suite = self.suite.clone().unwrap_or_else(|| self.kernel_series.suite().to_owned());
        KernelChoice { suite, package: self.kernel_package.clone() }
    }
}

impl KernelOptions {
    /// A word for the kernel, unless it is the usual one.
    #[must_use]
    pub fn variant(&self) -> Option<String> {
        let series = match self.kernel_series {
            KernelSeries::Bookworm => Some("6.1"),
            KernelSeries::Trixie => None,
            KernelSeries::Newest => Some("newest"),
        };
        let from = self.suite.clone().or(series.map(str::to_owned));
        let package = (self.kernel_package != PACKAGE).then(|| self.kernel_package.clone());
        let words: Vec<String> = from.into_iter().chain(package).collect();
        (!words.is_empty()).then(|| words.join("-"))
    }
}

/// The package that depends on the newest kernel of a suite with pages of 4 KiB.
const PACKAGE: &str = "linux-image-arm64";

impl KernelChoice {
    /// The kernel of the current stable release: 6.12, 4 KiB pages, no DART driver.
    #[must_use]
    pub fn stock() -> Self {
        Self::series(KernelSeries::Trixie)
    }

    /// The kernel of the recorded figures: 6.1. Of another, the figures would differ without any
    /// change of Oche.
    #[must_use]
    pub fn measured() -> Self {
        Self::series(KernelSeries::Bookworm)
    }

    /// A kernel with 4 KiB pages.
    #[must_use]
    pub fn series(series: KernelSeries) -> Self {
        Self { suite: series.suite().to_owned(), package: PACKAGE.to_owned() }
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
    let debs =
        archive.download(&[std::slice::from_ref(&package), &*parts(&package)].concat(), step)?;
    let root = folder.join("root");
    workspace::remove_folder(&root)?;
    step.detail(&format!("unpacking {}", package.name));
    archive::unpack(&debs, &root)?;
    let kernel = describe(choice, &package, &debs, &root)?;
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

/// The packages that hold the kernel and its modules, where the package of the kernel's name has
/// only dependencies, as since Linux 7: all of its own version.
fn parts(package: &Package) -> Vec<Package> {
    let release = package.name.strip_prefix("linux-image-").unwrap_or_default();
    ["linux-binary", "linux-modules", "linux-base"]
        .map(|part| format!("{part}-{release}"))
        .into_iter()
        .filter(|name| package.depends.contains(name))
        .map(|name| Package { name, ..package.clone() })
        .collect()
}

fn describe(
    choice: &KernelChoice,
    package: &Package,
    debs: &[PathBuf],
    root: &Path,
) -> Result<GuestKernel> {
    let (image, release) = find_image(root)
        .with_context(|| format!("package {} has no kernel: is it one?", package.name))?;
    let bytes = fs::read(&image).with_context(|| format!("cannot read {}", image.display()))?;
    let name = image.strip_prefix(root).context("the kernel lies elsewhere")?;
    let (deb, image_md5) = recorded_md5(debs, name)?;
    let package_bytes = fs::read(&deb).with_context(|| format!("cannot read {}", deb.display()))?;
    Ok(GuestKernel {
        suite: choice.suite.clone(),
        package: package.name.clone(),
        version: package.version.clone(),
        release,
        deb_sha256: hex(&Sha256::digest(&package_bytes)),
        deb,
        root: root.to_owned(),
        image_sha256: hex(&Sha256::digest(&bytes)),
        image_md5,
        image,
    })
}

/// The kernel below `root` and its release: `boot/vmlinuz-RELEASE`, or
/// `usr/lib/modules/RELEASE/vmlinuz` as since Linux 7.
fn find_image(root: &Path) -> Option<(PathBuf, String)> {
    let names = |folder: &str| {
        let entries = fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
    };
    let in_boot = names("boot").find_map(|name| {
        let release = name.strip_prefix("vmlinuz-")?.to_owned();
        Some((root.join("boot").join(&name), release))
    });
    in_boot.or_else(|| {
        let folder = root.join("usr/lib/modules");
        names("usr/lib/modules")
            .map(|release| (folder.join(&release).join("vmlinuz"), release))
            .find(|(image, _)| image.is_file())
    })
}

/// The package that has a file, and the MD5 that it records for it.
fn recorded_md5(debs: &[PathBuf], file: &Path) -> Result<(PathBuf, String)> {
    for deb in debs {
        let control = Command::new("dpkg-deb")
            .args(["--info"])
            .arg(deb)
            .arg("md5sums")
            .output()
            .context("cannot start dpkg-deb: is this Debian?")?;
        let text = String::from_utf8_lossy(&control.stdout);
        let recorded = text
            .lines()
            .filter_map(|line| line.split_once("  "))
            .find(|(_, path)| Path::new(path.trim()) == file);
        if let Some((sum, _)) = recorded {
            return Ok((deb.clone(), sum.to_owned()));
        }
    }
    bail!("no package of the kernel records a checksum for {}", file.display())
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

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use super::{KernelChoice, KernelOptions, KernelSeries, find_image, parts};
    use crate::guest::archive::Package;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        options: KernelOptions,
    }

    fn choice(words: &[&str]) -> KernelChoice {
        Alone::parse_from([&["demo"], words].concat()).options.choice()
    }

    #[test]
    fn without_a_word_the_kernel_is_the_stable_releases() {
        assert_eq!(choice(&[]), KernelChoice::stock());
        assert_eq!(choice(&[]).suite, "trixie");
        assert_eq!(choice(&["--kernel-series", "6.1"]), KernelChoice::measured());
        assert_eq!(choice(&["--kernel-series", "newest"]).suite, "sid");
        let other =
            choice(&["--suite", "bookworm-backports", "--package", "linux-image-arm64-16k"]);
        assert_eq!(
            (other.suite.as_str(), other.package.as_str()),
            ("bookworm-backports", "linux-image-arm64-16k")
        );
        assert!(
            Alone::try_parse_from(["demo", "--suite", "sid", "--kernel-series", "6.1"]).is_err()
        );
        assert_eq!(KernelChoice::series(KernelSeries::Trixie), KernelChoice::stock());
    }

    #[test]
    fn a_kernel_in_parts_is_fetched_whole_and_of_one_version() {
        let mut package = Package {
            name: "linux-image-7.2.13+deb14-arm64".into(),
            version: "7.2.13-1".into(),
            architecture: "arm64".into(),
            depends: ["dracut", "linux-base-7.2.13+deb14-arm64", "linux-binary-7.2.13+deb14-arm64"]
                .map(str::to_owned)
                .to_vec(),
        };
        let found = parts(&package);
        let names: Vec<_> = found.iter().map(Package::specification).collect();
        assert_eq!(
            names,
            [
                "linux-binary-7.2.13+deb14-arm64:arm64=7.2.13-1",
                "linux-base-7.2.13+deb14-arm64:arm64=7.2.13-1"
            ]
        );
        package.depends = vec!["linux-base".into()];
        assert!(parts(&package).is_empty(), "linux-base alone is another package");
    }

    #[test]
    fn the_kernel_is_found_where_either_kind_of_package_has_it() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(find_image(root.path()), None);
        let (old, new) = (root.path().join("boot"), root.path().join("usr/lib/modules/7.2-arm64"));
        fs::create_dir_all(&new).unwrap();
        fs::write(new.join("vmlinuz"), "new").unwrap();
        assert_eq!(find_image(root.path()), Some((new.join("vmlinuz"), "7.2-arm64".into())));
        fs::create_dir(&old).unwrap();
        fs::write(old.join("vmlinuz-6.1-arm64"), "old").unwrap();
        assert_eq!(
            find_image(root.path()),
            Some((old.join("vmlinuz-6.1-arm64"), "6.1-arm64".into()))
        );
    }
}
