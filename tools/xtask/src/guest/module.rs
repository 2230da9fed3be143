//! The distribution's own DART driver, built as a module for its stock kernel, and other modules
//! for it.
//!
//! Stock Debian kernels leave the driver out. Its source is in the distribution's `linux-source`
//! package; it is compiled untouched against the kernel's own headers, with a few lines of glue in
//! `module/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use oche::progress::Step;
use oche::{command, workspace};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::archive::{self, Archive, Package};
use super::kernel::{GuestKernel, hex};

/// The distribution's files that are compiled, in `drivers/iommu/`.
const DRIVER_SOURCES: [&str; 2] = ["apple-dart.c", "io-pgtable-dart.c"];
/// What is taken out of the kernel's source: the driver's folder, and the benchmark of DMA maps.
const SOURCES: [&str; 2] = ["drivers/iommu", "kernel/dma/map_benchmark.c"];
/// The files that the project adds to them.
const GLUE: [(&str, &str); 3] = [
    ("Kbuild", include_str!("module/Kbuild")),
    ("glue.c", include_str!("module/glue.c")),
    ("board-dma.c", include_str!("module/board-dma.c")),
];
/// The module's file name.
const MODULE: &str = "apple-dart-module.ko";
/// The driver of the simulated M1's DMA engines, built beside it.
const BOARD_DMA: &str = "board-dma.ko";

/// The driver, built for one kernel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DartModule {
    /// The module.
    pub path: PathBuf,
    /// The kernel release it is for.
    pub release: String,
    /// The package its source came from, with version.
    pub source_package: String,
    /// The compiled source files of the distribution, each with its SHA-256 in hex.
    pub sources: Vec<(String, String)>,
    /// SHA-256 over the glue that went in, in hex.
    glue_sha256: String,
}

impl DartModule {
    /// The module that drives the simulated M1's DMA engines, all of it the project's own.
    #[must_use]
    pub fn board_dma(&self) -> PathBuf {
        self.path.with_file_name(BOARD_DMA)
    }
}

/// Gives the DART driver for a kernel: from the cache if it is there, else built from the
/// distribution's source.
///
/// # Errors
///
/// The archive cannot be reached or lacks the kernel's headers or source, or the compiler is
/// missing or fails.
pub fn build(kernel: &GuestKernel, step: &Step) -> Result<DartModule> {
    let folder = kernel.folder().join("dart");
    let _lock = workspace::FolderLock::wait(&folder)?;
    if let Some(kept) = kept(&folder) {
        step.detail(&format!("the DART module for {} is in the cache", kernel.release));
        return Ok(kept);
    }
    if folder.to_string_lossy().contains([' ', ':']) {
        bail!(
            "the kernel's build system takes no path with a space or a colon: move the checkout ({})",
            folder.display()
        );
    }
    let archive = Archive::open(&kernel.suite)?;
    let headers = unpack_headers(&archive, kernel, &folder, step)?;
    let sources = folder.join("build");
    let source_package = extract_sources(&archive, kernel, &sources, step)?;
    for (name, text) in GLUE {
        workspace::write_whole(&sources.join(name), text.as_bytes())?;
    }
    step.detail(&format!("compiling the DART driver for {}", kernel.release));
    compile(&headers, &sources)?;
    let digests =
        DRIVER_SOURCES.iter().map(|name| Ok(((*name).to_owned(), digest_of(&sources.join(name))?)));
    let module = DartModule {
        path: sources.join(MODULE),
        release: kernel.release.clone(),
        source_package,
        sources: digests.collect::<Result<_>>()?,
        glue_sha256: glue_digest(),
    };
    workspace::write_whole(&folder.join("module.json"), &serde_json::to_vec_pretty(&module)?)?;
    Ok(module)
}

/// Builds another module for `kernel`, out of sources of the project's own: file names and texts, a
/// `Kbuild` among them. Gives the path of `module`, which they make.
///
/// # Errors
///
/// As for [`build`].
pub fn build_own(
    kernel: &GuestKernel,
    sources: &[(&str, &str)],
    module: &str,
    step: &Step,
) -> Result<PathBuf> {
    // With it come the headers.
    build(kernel, step)?;
    let folder = kernel.folder().join("dart");
    let _lock = workspace::FolderLock::wait(&folder)?;
    let headers = match kept_headers(&folder) {
        Some(headers) => headers,
        None => unpack_headers(&Archive::open(&kernel.suite)?, kernel, &folder, step)?,
    };
    let into = folder.join(module.trim_end_matches(".ko"));
    workspace::create_folder(&into)?;
    for (name, text) in sources {
        workspace::write_whole(&into.join(name), text.as_bytes())?;
    }
    step.detail(&format!("compiling {module} for {}", kernel.release));
    compile(&headers, &into)?;
    Ok(into.join(module))
}

/// The headers that [`unpack_headers`] left.
fn kept_headers(folder: &Path) -> Option<Headers> {
    let names =
        fs::read_dir(folder.join("headers/usr/src")).ok()?.flatten().map(|entry| entry.path());
    let (common, flavours): (Vec<_>, Vec<_>) = names
        .filter(|path| path.to_string_lossy().contains("/linux-headers-"))
        .partition(|path| path.to_string_lossy().ends_with("-common"));
    let makefile = common.into_iter().next()?.join("Makefile");
    Some(Headers { flavour: flavours.into_iter().next()?, makefile })
}

fn kept(folder: &Path) -> Option<DartModule> {
    let module: DartModule =
        serde_json::from_slice(&fs::read(folder.join("module.json")).ok()?).ok()?;
    let is_whole = module.path.is_file()
        && module.path.starts_with(folder)
        && module.glue_sha256 == glue_digest();
    is_whole.then_some(module)
}

/// The unpacked headers of a kernel.
struct Headers {
    /// The folder of the flavour, with the kernel's configuration.
    flavour: PathBuf,
    /// The makefile that all flavours share.
    makefile: PathBuf,
}

fn unpack_headers(
    archive: &Archive,
    kernel: &GuestKernel,
    folder: &Path,
    step: &Step,
) -> Result<Headers> {
    let name =
        kernel.package.trim_end_matches("-unsigned").replacen("linux-image-", "linux-headers-", 1);
    let flavour = archive.package(&name, "arm64", step)?;
    let need = |prefix: &str, suffix: &str| {
        flavour
            .depends
            .iter()
            .find(|name| name.starts_with(prefix) && name.ends_with(suffix))
            .cloned()
            .with_context(|| format!("package {name} names no {prefix}*{suffix}"))
    };
    let common = need("linux-headers-", "-common")?;
    let build_tools = need("linux-kbuild-", "")?;
    // All from the kernel's own version: the archive may meanwhile have a newer one.
    let of_kernel = |name: &str, architecture: &str| Package {
        name: name.to_owned(),
        version: kernel.version.clone(),
        architecture: architecture.to_owned(),
        depends: Vec::new(),
    };
    let packages = [
        of_kernel(&name, "arm64"),
        of_kernel(&common, "all"),
        of_kernel(&build_tools, host_architecture()),
    ];
    let debs = archive.download(&packages, step)?;
    let root = folder.join("headers");
    workspace::remove_folder(&root)?;
    step.detail("unpacking the kernel's headers");
    archive::unpack(&debs, &root)?;
    let sources = root.join("usr/src");
    Ok(Headers { flavour: sources.join(&name), makefile: sources.join(common).join("Makefile") })
}

/// Copies the driver's sources out of the distribution's source package, and returns the package's
/// name and version.
fn extract_sources(
    archive: &Archive,
    kernel: &GuestKernel,
    into: &Path,
    step: &Step,
) -> Result<String> {
    let (sources, package) = unpack_sources(archive, kernel, step)?;
    let folder = sources.join("drivers/iommu");
    workspace::remove_folder(into)?;
    workspace::create_folder(into)?;
    for entry in fs::read_dir(&folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .flatten()
    {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| DRIVER_SOURCES.contains(&name) || name.ends_with(".h"))
        {
            fs::copy(entry.path(), into.join(&name))
                .with_context(|| format!("cannot write {}", into.display()))?;
        }
    }
    for name in DRIVER_SOURCES {
        if !into.join(name).is_file() {
            bail!("{} has no drivers/iommu/{name}", package.name);
        }
    }
    Ok(format!("{} {}", package.name, package.version))
}

/// Returns a file of the source of `kernel`, such as `kernel/dma/map_benchmark.c`, unchanged.
///
/// # Errors
///
/// The archive cannot be reached, or its source package lacks the file.
pub fn source_file(kernel: &GuestKernel, name: &str, step: &Step) -> Result<PathBuf> {
    let (sources, package) = unpack_sources(&Archive::open(&kernel.suite)?, kernel, step)?;
    let file = sources.join(name);
    ensure!(file.is_file(), "{} has no {name}", package.name);
    Ok(file)
}

/// Takes [`SOURCES`] out of the source package, and gives their folder and the package.
///
/// They are kept by package version: all flavours of a kernel share them.
fn unpack_sources(
    archive: &Archive,
    kernel: &GuestKernel,
    step: &Step,
) -> Result<(PathBuf, Package)> {
    let series: Vec<_> = kernel.release.split(['.', '-', '+']).take(2).collect();
    let package = Package {
        name: format!("linux-source-{}", series.join(".")),
        version: kernel.version.clone(),
        architecture: "all".to_owned(),
        depends: Vec::new(),
    };
    let kept =
        workspace::cache().join("sources").join(format!("{}_{}", package.name, package.version));
    let _lock = workspace::FolderLock::wait(&kept)?;
    let folder = kept.join(&package.name);
    if SOURCES.iter().any(|name| !folder.join(name).exists()) {
        let debs = archive.download(std::slice::from_ref(&package), step)?;
        step.detail("taking sources out of the kernel's");
        for deb in &debs {
            archive::extract_source(deb, &package.name, &SOURCES, &kept)?;
        }
    }
    Ok((folder, package))
}

fn compile(headers: &Headers, sources: &Path) -> Result<()> {
    let mut make = Command::new("make");
    make.arg("-C").arg(&headers.flavour).arg("-f").arg(&headers.makefile);
    make.args(["ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-", "CC=aarch64-linux-gnu-gcc"]);
    // Type information for the kernel's tracer would need one more tool, and no one traces this
    // module.
    make.arg("CONFIG_DEBUG_INFO_BTF_MODULES=");
    make.arg(format!("M={}", sources.display())).arg("modules");
    // What the caller's make or packaging tools left in the environment must not reach the kernel's
    // build.
    for name in [
        "MAKEFLAGS",
        "MFLAGS",
        "KCFLAGS",
        "KBUILD_OUTPUT",
        "DEB_BUILD_ARCH",
        "DEB_HOST_ARCH",
        "O",
        "V",
        "M",
    ] {
        make.env_remove(name);
    }
    make.env("LC_ALL", "C");
    command::run(&mut make, "compiling a module of the kernel")
}

/// The architecture of Debian's packages for the machine this runs on.
fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

fn digest_of(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hex(&Sha256::digest(bytes)))
}

fn glue_digest() -> String {
    let mut digest = Sha256::new();
    for (name, text) in GLUE {
        digest.update(name);
        digest.update(text);
    }
    hex(&digest.finalize())
}
