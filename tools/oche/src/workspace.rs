//! The paths of the checkout and of the files made from it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The checkout that this program was compiled in; nothing in a release, which needs none.
const COMPILED_IN: &str = env!("OCHE_CHECKOUT");

/// The checkout's top folder, if there is one.
///
/// At run time cargo names the folder of the package it runs; a binary that is started by hand
/// falls back to the checkout it was compiled in.
#[must_use]
pub fn checkout() -> Option<PathBuf> {
    let compiled = || top_above(&fs::canonicalize(COMPILED_IN).ok()?);
    std::env::var_os("CARGO_MANIFEST_DIR")
        .and_then(|package| top_above(Path::new(&package)))
        .or_else(compiled)
}

/// The same, for commands that are of use in a checkout only; without one, the current folder.
#[must_use]
pub fn root() -> PathBuf {
    checkout().unwrap_or_default()
}

/// The checkout that `package`, a folder in it, belongs to.
fn top_above(package: &Path) -> Option<PathBuf> {
    package
        .ancestors()
        .find(|folder| folder.join("tools/oche/Cargo.toml").is_file())
        .map(Path::to_path_buf)
}

/// The folder of results: `target/` of the checkout, wherever cargo builds.
#[must_use]
pub fn target() -> PathBuf {
    root().join("target")
}

/// The folder of fetched and derived files that are kept between runs.
#[must_use]
pub fn cache() -> PathBuf {
    target().join("cache")
}

/// A lock on a folder that lasts as long as the value: two runs at once must not unpack into each
/// other.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Creates the folder if needed and waits until no other process holds it.
    ///
    /// # Errors
    ///
    /// The folder or its lock file cannot be made.
    pub fn wait(folder: &Path) -> Result<Self> {
        create_folder(folder)?;
        let path = folder.join(".lock");
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(Self { _file: file })
    }
}

/// Creates a folder and those above it.
///
/// # Errors
///
/// The folder cannot be made; the error names it.
pub fn create_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// Writes a file in one move, so that a reader sees the old bytes or all the new ones.
///
/// # Errors
///
/// The file cannot be written; the error names it.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        create_folder(folder)?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    fs::write(&beside, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    fs::rename(&beside, path).with_context(|| format!("cannot write {}", path.display()))
}

/// Removes a folder and all in it, if it is there.
///
/// # Errors
///
/// The folder cannot be removed; the error names it.
pub fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{root, top_above};

    #[test]
    fn the_top_is_found_from_every_package_and_only_from_inside() {
        let top = root();
        for package in ["tools/oche", "tools/xtask", "hyp"] {
            assert_eq!(top_above(&top.join(package)).as_ref(), Some(&top), "{package}");
        }
        let elsewhere = tempfile::tempdir().unwrap();
        assert_eq!(top_above(elsewhere.path()), None);
    }
}
