//! The distribution's own DART driver, built as a module for its stock kernel, and other modules
//! for it.
//!
//! Stock Debian kernels leave the driver out. Its source is in the distribution's `linux-source`
//! package; it is compiled untouched against the kernel's own headers, with a few lines of glue in
//! `module/`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use oche::progress::Step;
use oche::workspace;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::archive::{self, Archive, Package};
use super::headers::Headers;
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
    let headers = Headers::unpack(&archive, kernel, &folder, step)?;
    let sources = folder.join("build");
    let source_package = extract_sources(&archive, kernel, &sources, step)?;
    for (name, text) in GLUE {
        workspace::write_whole(&sources.join(name), text.as_bytes())?;
    }
    step.detail(&format!("compiling the DART driver for {}", kernel.release));
    headers.compile(&sources)?;
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
    let headers = match Headers::kept(kernel, &folder, step)? {
        Some(headers) => headers,
        None => Headers::unpack(&Archive::open(&kernel.suite)?, kernel, &folder, step)?,
    };
    let into = folder.join(module.trim_end_matches(".ko"));
    workspace::create_folder(&into)?;
    for (name, text) in sources {
        workspace::write_whole(&into.join(name), text.as_bytes())?;
    }
    step.detail(&format!("compiling {module} for {}", kernel.release));
    headers.compile(&into)?;
    Ok(into.join(module))
}

fn kept(folder: &Path) -> Option<DartModule> {
    let module: DartModule =
        serde_json::from_slice(&fs::read(folder.join("module.json")).ok()?).ok()?;
    let is_whole = module.path.is_file()
        && module.path.starts_with(folder)
        && module.glue_sha256 == glue_digest();
    is_whole.then_some(module)
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
