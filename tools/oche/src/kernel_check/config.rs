//! A kernel's configuration: where it is found, and what it says.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::rules::Release;

/// The largest configuration that is read, in bytes: real ones have 0.3 MB.
const BYTES_LIMIT: u64 = 64 << 20;
/// What stands before and behind a configuration in a kernel built with `CONFIG_IKCONFIG=y`; gzip's
/// magic follows the first. Source: Linux `kernel/configs.c`.
const EMBEDDED_START: &[u8] = b"IKCFG_ST\x1f\x8b";
const MARK_BYTES: usize = 8;
const EMBEDDED_END: &[u8] = b"IKCFG_ED";

/// What an option is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// `y`.
    BuiltIn,
    /// `m`.
    Module,
    /// Anything else: `n`, a number, a text.
    Other,
}

/// A kernel's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelConfig {
    options: HashMap<String, Setting>,
    /// The Linux that it is for, if its first lines say so.
    pub release: Option<Release>,
}

/// Where a configuration was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// This file, which was named.
    Named(PathBuf),
    /// The kernel itself.
    Kernel,
    /// This file, which lies beside the kernel.
    Beside(PathBuf),
}

impl fmt::Display for ConfigSource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(path) => write!(out, "{}", path.display()),
            Self::Kernel => out.write_str("the kernel's own, inside it"),
            Self::Beside(path) => write!(out, "{}, beside the kernel", path.display()),
        }
    }
}

impl KernelConfig {
    /// Reads the text of a configuration.
    ///
    /// # Errors
    ///
    /// It is none, or one of another architecture.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let mut options = HashMap::new();
        let mut header = None;
        for line in text.split(|byte| *byte == b'\n') {
            let Ok(line) = str::from_utf8(line) else { continue };
            if let Some((name, setting)) = option(line) {
                options.insert(name.to_owned(), setting);
            } else if header.is_none() {
                header = title(line);
            }
        }
        if options.is_empty() {
            bail!(
                "it is no kernel configuration, which has lines such as CONFIG_ARM64=y: name a \
                 file such as /boot/config-6.12"
            );
        }
        if options.get("ARM64") != Some(&Setting::BuiltIn) {
            let whose = header.map_or("another architecture", |(architecture, _)| architecture);
            bail!("it is of a kernel for {whose}, not for arm64: name the one of this kernel");
        }
        Ok(Self { options, release: header.and_then(|(_, release)| release) })
    }

    /// What the option is set to, without `CONFIG_`; none if it is off or not known.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Setting> {
        self.options.get(name).copied()
    }

    /// The page size that it gives the kernel, in bytes.
    #[must_use]
    pub fn page_bytes(&self) -> Option<u64> {
        let sizes = [(4, "ARM64_4K_PAGES"), (16, "ARM64_16K_PAGES"), (64, "ARM64_64K_PAGES")];
        let chosen = |name: &str| self.get(name) == Some(Setting::BuiltIn);
        sizes.iter().find(|(_, name)| chosen(name)).map(|(kib, _)| kib << 10)
    }
}

/// The option and its setting in a line such as `CONFIG_PM=y`.
fn option(line: &str) -> Option<(&str, Setting)> {
    let (name, value) = line.trim_end().strip_prefix("CONFIG_")?.split_once('=')?;
    let setting = match value {
        "y" => Setting::BuiltIn,
        "m" => Setting::Module,
        _ => Setting::Other,
    };
    Some((name, setting))
}

/// Architecture and release in a title such as `# Linux/arm64 6.12.118 Kernel Configuration`.
fn title(line: &str) -> Option<(&str, Option<Release>)> {
    let (architecture, rest) = line.strip_prefix("# Linux/")?.split_once(' ')?;
    let version = rest.trim_end().strip_suffix(" Kernel Configuration")?;
    Some((architecture, release(version)))
}

/// The release that a version such as `6.12.118+deb13-arm64` begins with.
#[must_use]
pub fn release(version: &str) -> Option<Release> {
    let (major, rest) = version.split_once('.')?;
    let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
    Some((major.parse().ok()?, rest.get(..end)?.parse().ok()?))
}

/// Finds the configuration of a kernel: `named`, or the kernel's own, or a file beside it.
/// `file` is the kernel's file, `image` the kernel, and `version` such as `6.12.118+deb13-arm64`.
///
/// # Errors
///
/// The named one cannot be read, or what was found is no configuration.
pub fn find(
    named: Option<&Path>,
    image: &[u8],
    file: &Path,
    version: Option<&str>,
) -> Result<Option<(KernelConfig, ConfigSource)>> {
    if let Some(path) = named {
        return Ok(Some((read(path)?, ConfigSource::Named(path.to_owned()))));
    }
    if let Some(text) = embedded(image) {
        let parsed = text.and_then(|text| KernelConfig::parse(&text));
        let config = parsed.context("the configuration inside the kernel")?;
        return Ok(Some((config, ConfigSource::Kernel)));
    }
    let Some(version) = version else { return Ok(None) };
    match beside(file, version) {
        Some(path) => Ok(Some((read(&path)?, ConfigSource::Beside(path)))),
        None => Ok(None),
    }
}

/// `config-VERSION` in the kernel's folder, as in `/boot`; `config`, if the folder has the
/// version's name; or `config` in the folder of the kernel's modules, if the kernel is in a
/// `/boot`. Debian has the last two since Linux 7.2. A link to the kernel is followed.
fn beside(file: &Path, version: &str) -> Option<PathBuf> {
    // A version with a slash would name another folder.
    if Path::new(version).file_name().is_none_or(|own| own != version) {
        return None;
    }
    let real = fs::canonicalize(file).ok();
    [Some(file), real.as_deref()].into_iter().flatten().find_map(|file| {
        let folder = file.parent()?;
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let is_own = folder.file_name().is_some_and(|name| name == version);
        let modules = ["../usr/lib/modules", "../lib/modules"];
        [Some(folder.join(format!("config-{version}"))), is_own.then(|| folder.join("config"))]
            .into_iter()
            .flatten()
            .chain(modules.map(|modules| folder.join(modules).join(version).join("config")))
            .find(|path| path.is_file())
    })
}

fn read(path: &Path) -> Result<KernelConfig> {
    let name = || format!("the configuration {}", path.display());
    let file = File::open(path).with_context(|| format!("cannot read {}", name()))?;
    let mut bytes = Vec::new();
    file.take(BYTES_LIMIT + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", name()))?;
    let text = if bytes.starts_with(&[0x1f, 0x8b]) { expand(&bytes) } else { limited(bytes) };
    text.and_then(|text| KernelConfig::parse(&text)).with_context(name)
}

/// The configuration inside a kernel, if it has one.
fn embedded(image: &[u8]) -> Option<Result<Vec<u8>>> {
    let find = |bytes: &[u8], mark: &[u8]| bytes.windows(mark.len()).position(|at| at == mark);
    let start = find(image, EMBEDDED_START)? + MARK_BYTES;
    let rest = image.get(start..)?;
    let end = find(rest, EMBEDDED_END).unwrap_or(rest.len());
    Some(expand(rest.get(..end).unwrap_or_default()))
}

fn expand(packed: &[u8]) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(packed)
        .take(BYTES_LIMIT + 1)
        .read_to_end(&mut text)
        .context("its gzip data are damaged")?;
    limited(text)
}

fn limited(text: Vec<u8>) -> Result<Vec<u8>> {
    if text.len() as u64 > BYTES_LIMIT {
        bail!("it has more than {} MiB: no configuration has", BYTES_LIMIT >> 20);
    }
    Ok(text)
}

#[cfg(test)]
#[path = "config/tests.rs"]
mod tests;
