//! Files that are written: never over what is read, and all of them or nothing.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// `file` with another extension in place of `.oche`, or behind whatever other name it has.
pub fn beside(file: &Path, extension: &str) -> PathBuf {
    if file.extension().is_some_and(|own| own == "oche") {
        return file.with_extension(extension);
    }
    let mut name = file.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

/// Refuses `output` if it is one of the `inputs`, by whatever name.
///
/// # Errors
///
/// `output` is one of `inputs`.
pub fn refuse_input<'a>(output: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let identity = |path: &Path| {
        let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        Some((metadata.dev(), metadata.ino()))
    };
    let own = identity(output);
    if own.is_some() && inputs.into_iter().any(|input| identity(input) == own) {
        bail!("{} is what is read: name another file to write", output.display());
    }
    Ok(())
}

/// Refuses what is read in any order and cannot be: a pipe, a terminal.
///
/// # Errors
///
/// `input` is one.
pub fn refuse_pipe(input: &Path) -> Result<()> {
    if input == Path::new("-") {
        bail!(
            "a trace cannot be read from standard input here, only by `oche trace live -`: write it to a file"
        );
    }
    let kind = fs::metadata(input).ok().map(|metadata| metadata.file_type());
    if kind.is_some_and(|kind| kind.is_fifo() || kind.is_char_device() || kind.is_socket()) {
        bail!(
            "{} is a pipe or a device, and a trace is read in any order: write it to a file",
            input.display()
        );
    }
    Ok(())
}

/// Writes `path` by `write`, and gives its bytes. What was there before stays until all is written.
///
/// # Errors
///
/// It cannot be written.
pub fn write_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<u64> {
    let action = || format!("writing {}", path.display());
    let fill = |file: &File| {
        let mut out = BufWriter::with_capacity(1 << 16, file);
        write(&mut out).and_then(|()| out.flush())
    };
    // A link's file is replaced, not the link; a pipe or a device cannot be.
    let place = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let is_plain = fs::metadata(&place).map_or(true, |metadata| metadata.is_file());
    let folder =
        place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if is_plain && place.exists() {
        File::options().write(true).open(&place).with_context(action)?;
    }
    // As of any new file: the umask takes its part.
    let made = || {
        tempfile::Builder::new().permissions(Permissions::from_mode(0o666)).tempfile_in(folder).ok()
    };
    match is_plain.then(made).flatten() {
        Some(whole) => {
            fill(whole.as_file()).with_context(action)?;
            whole.persist(&place).map_err(|error| error.error).with_context(action)?;
        }
        None => fill(&File::create(path).with_context(action)?).with_context(action)?,
    }
    Ok(fs::metadata(path).map_or(0, |metadata| metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_ending_of_a_trace_is_replaced() {
        assert_eq!(beside(Path::new("a/boot.oche"), "html"), Path::new("a/boot.html"));
        assert_eq!(beside(Path::new("boot.1"), "html"), Path::new("boot.1.html"));
        assert_eq!(beside(Path::new("boot"), "pcapng"), Path::new("boot.pcapng"));
    }

    #[test]
    fn what_is_read_is_not_written_whatever_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("a.oche"), folder.path().join("b"));
        fs::write(&file, "trace").unwrap();
        fs::hard_link(&file, &link).unwrap();
        assert!(refuse_input(&link, [file.as_path()]).is_err());
        assert!(refuse_input(&folder.path().join("c"), [file.as_path()]).is_ok());
    }

    #[test]
    fn what_was_there_stays_until_all_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("page.html");
        fs::write(&file, "before").unwrap();
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        assert!(write_file(&file, |out| out.write_all(b"half").and(Err(full()))).is_err());
        assert_eq!(fs::read(&file).unwrap(), b"before");
        write_file(&file, |out| out.write_all(b"after")).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"after");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }
}
