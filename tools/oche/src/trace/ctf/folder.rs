//! The folder of a CTF trace: whole or not there, and never in place of something else.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::metadata::{HEADING, METADATA, STREAM};

/// Has `write` fill a folder, which takes the place of `path` when all of it is written.
///
/// # Errors
///
/// `path` holds something else than an earlier export, or cannot be written; those of `write`.
pub(super) fn write_folder<T>(path: &Path, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let earlier = earlier_export(path)?;
    let action = || format!("writing {}", path.display());
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let made = tempfile::Builder::new()
        .prefix(".oche-ctf-")
        .permissions(Permissions::from_mode(0o777))
        .tempdir_in(parent.unwrap_or(Path::new(".")))
        .with_context(action)?;
    let answer = write(made.path())?;
    for file in earlier {
        fs::remove_file(&file).with_context(|| format!("replacing {}", file.display()))?;
    }
    // A folder that is empty is replaced as a file is.
    fs::rename(made.path(), path).with_context(action)?;
    let _ = made.keep();
    Ok(answer)
}

/// The files of an earlier export at `path`; none where nothing, or an empty folder, is there.
fn earlier_export(path: &Path) -> Result<Vec<PathBuf>> {
    let action = || format!("looking at {}", path.display());
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(action),
        Ok(metadata) if !metadata.is_dir() => {
            bail!("{} is no folder: a CTF trace is one; name another", path.display())
        }
        Ok(_) => {}
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).with_context(action)? {
        let entry = entry.with_context(action)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_of_export = *name == *METADATA
            || name.strip_prefix(STREAM).is_some_and(|cpu| cpu.parse::<u8>().is_ok());
        if !is_of_export || !entry.file_type().with_context(action)?.is_file() {
            bail!("{} holds {name}: name a new folder, or an empty one", path.display());
        }
        files.push(entry.path());
    }
    let is_ours =
        || fs::read(path.join(METADATA)).is_ok_and(|text| text.starts_with(HEADING.as_bytes()));
    if !files.is_empty() && !is_ours() {
        bail!("{} holds another program's trace: name a new folder", path.display());
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(to: &Path, streams: &[&str]) -> Result<()> {
        write_folder(to, |folder| {
            fs::write(folder.join(METADATA), HEADING)?;
            for stream in streams {
                fs::write(folder.join(stream), "")?;
            }
            Ok(())
        })
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_earlier_export_and_an_empty_folder_are_replaced_and_nothing_else_is() {
        let home = tempfile::tempdir().unwrap();
        let to = home.path().join("boot.ctf");
        export(&to, &["cpu0", "cpu1"]).unwrap();
        export(&to, &["cpu0"]).unwrap();
        assert_eq!(names(&to), ["cpu0", "metadata"]);
        let empty = home.path().join("empty");
        fs::create_dir(&empty).unwrap();
        export(&empty, &[]).unwrap();

        fs::write(to.join("notes"), "mine").unwrap();
        let refused = export(&to, &[]).unwrap_err().to_string();
        assert!(refused.ends_with("holds notes: name a new folder, or an empty one"), "{refused}");
        let foreign = home.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join(METADATA), "/* CTF 1.8 */ trace { };").unwrap();
        assert!(export(&foreign, &[]).is_err());
        assert!(export(&foreign.join(METADATA), &[]).is_err());
        assert_eq!(names(home.path()), ["boot.ctf", "empty", "foreign"], "nothing else is left");
    }

    #[test]
    fn what_was_there_stays_if_writing_fails() {
        let home = tempfile::tempdir().unwrap();
        let to = home.path().join("boot.ctf");
        export(&to, &["cpu0"]).unwrap();
        assert!(write_folder(&to, |_| -> Result<()> { bail!("the disk is full") }).is_err());
        assert_eq!(
            (names(&to), names(home.path()).len()),
            (vec!["cpu0".into(), METADATA.into()], 1)
        );
    }
}
