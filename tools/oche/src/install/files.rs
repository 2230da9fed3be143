//! Files that are on the disk, whole, before anything relies on them.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The mode of a new file that is no boot file.
pub(super) const MODE: u32 = 0o644;
/// The time of the image: FAT's first. At 0, Debian 13's gzip 1.13 ends with the code 2 ("file
/// timestamp out of range"), at which the script stops.
const DATE: Duration = Duration::from_secs(315_532_800);
/// The context of a path without a folder.
pub(super) const NO_FOLDER: &str = "a file in no folder";

/// Writes `path` in one move: a reader, and a machine that loses its power, finds the old bytes or
/// the new ones. The new ones are on the disk when this returns.
///
/// On FAT the move replaces a folder's entry, which is not journaled: it is whole after the end of
/// the process at any moment, and after a loss of power if the drive writes a sector whole.
///
/// # Errors
///
/// The file cannot be written; then the old one is there. The error gives the remedy.
pub(super) fn write(path: &Path, bytes: &[u8], mode: Option<u32>) -> Result<()> {
    write_with(path, bytes, |file| match mode {
        Some(mode) => file.set_permissions(Permissions::from_mode(mode)),
        None => Ok(()),
    })
}

/// As [`write()`], for a file that `gzip` compresses: it has a time that never changes, which gzip
/// keeps, so that the same bytes give the same boot file.
///
/// # Errors
///
/// As [`write()`].
pub(super) fn write_dateless(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, bytes, |file| {
        file.set_permissions(Permissions::from_mode(MODE))?;
        file.set_modified(SystemTime::UNIX_EPOCH + DATE)
    })
}

fn write_with(
    path: &Path,
    bytes: &[u8],
    finish: impl FnOnce(&File) -> io::Result<()>,
) -> Result<()> {
    let fresh = fresh_name(path);
    let fill = || -> io::Result<()> {
        let mut file = File::create(&fresh)?;
        file.write_all(bytes)?;
        finish(&file)?;
        file.sync_all()
    };
    let done =
        fill().map_err(|error| explain(&error, "write", path)).and_then(|()| replace(&fresh, path));
    if done.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    done
}

/// Moves `from` to `to`, in one folder, and brings the folder to the disk.
///
/// # Errors
///
/// It cannot be moved, or the folder cannot be synchronized.
pub(super) fn replace(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|error| explain(&error, "replace", to))?;
    sync_folder(to)
}

/// Creates a folder and those above it, if it is missing, and brings it to the disk.
///
/// # Errors
///
/// It cannot be created.
pub(super) fn create_folder(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(|error| explain(&error, "create", folder))?;
    sync_folder(folder)
}

/// Brings a file that another program has written to the disk.
///
/// # Errors
///
/// It cannot be opened or synchronized.
pub(super) fn sync(path: &Path) -> Result<()> {
    let done = File::options().write(true).open(path).and_then(|file| file.sync_all());
    done.map_err(|error| explain(&error, "synchronize", path))
}

/// Removes a file, if it is there, and brings its folder to the disk.
///
/// # Errors
///
/// It cannot be removed.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder(path),
        Err(error) if is_absent(&error) => Ok(()),
        Err(error) => Err(explain(&error, "remove", path)),
    }
}

/// The bytes of a file; `None` if there is none.
///
/// # Errors
///
/// It cannot be read.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(explain(&error, "read", path)),
    }
}

/// The mode of a file, or that of a new one.
pub(super) fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).map_or(MODE, |metadata| metadata.permissions().mode() & 0o7777)
}

/// SHA-256 in hex.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name under which a new version of `path` is written.
pub(super) fn fresh_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".oche-tmp");
    name.into()
}

/// What went wrong with a file, and the remedy.
pub(super) fn explain(error: &io::Error, action: &str, path: &Path) -> anyhow::Error {
    let remedy = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ": free space there and run it again",
        ErrorKind::ReadOnlyFilesystem => ": mount it for writing (`mount -o remount,rw`)",
        ErrorKind::PermissionDenied => ": run it as root",
        _ => "",
    };
    anyhow::anyhow!("cannot {action} {}: {error}{remedy}", path.display())
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn sync_folder(of: &Path) -> Result<()> {
    let folder = of.parent().context(NO_FOLDER)?;
    let done = File::open(folder).and_then(|folder| folder.sync_all());
    done.map_err(|error| explain(&error, "synchronize", folder))
}

#[cfg(test)]
mod tests {
    use super::{explain, fresh_name, read, remove, sha256, write};
    use std::fs;
    use std::io;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings");
        write(&path, b"new", Some(0o600)).unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some(b"new".as_slice()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // The new version cannot be written: its name is a folder's.
        fs::create_dir(fresh_name(&path)).unwrap();
        assert!(write(&path, b"newer", None).is_err());
        assert_eq!(read(&path).unwrap().as_deref(), Some(b"new".as_slice()));
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(read(&path).unwrap(), None);
    }

    #[test]
    fn a_full_disk_gets_a_remedy() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let text = explain(&full, "write", "/boot/x".as_ref()).to_string();
        assert!(
            text.starts_with("cannot write /boot/x: ") && text.contains("free space"),
            "{text}"
        );
        assert_eq!(sha256(b"")[..8], *"e3b0c442");
    }
}
