//! Archives whose bytes follow from their contents alone.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, Result};
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

/// A file of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) bytes: Vec<u8>,
    pub(super) is_program: bool,
}

/// The files of an archive, by their path below its one folder, sorted.
pub(super) type Entries = BTreeMap<String, Entry>;

/// Adds a file that is no program.
pub(super) fn add(entries: &mut Entries, path: &str, bytes: impl Into<Vec<u8>>) {
    entries.insert(path.to_owned(), Entry { bytes: bytes.into(), is_program: false });
}

/// The `.tar.gz` of `entries` below `folder`: sorted, of root, and all of the time `seconds` since
/// 1970 UTC.
///
/// # Errors
///
/// A path is too long for the format.
pub(super) fn tar_gz(folder: &str, entries: &Entries, seconds: u64) -> Result<Vec<u8>> {
    let mut tar = Builder::new(GzEncoder::new(Vec::new(), flate2::Compression::best()));
    for (path, entry) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(entry.bytes.len() as u64);
        header.set_mode(if entry.is_program { 0o755 } else { 0o644 });
        header.set_mtime(seconds);
        header.set_uid(0);
        header.set_gid(0);
        let name = format!("{folder}/{path}");
        tar.append_data(&mut header, &name, entry.bytes.as_slice())
            .with_context(|| format!("cannot put {name} into an archive"))?;
    }
    let mut gzip = tar.into_inner().context("the archive")?;
    gzip.flush().context("the archive")?;
    gzip.finish().context("the archive")
}

#[cfg(test)]
mod tests {
    use super::{Entries, add, tar_gz};
    use std::io::Read;

    #[test]
    fn an_archive_has_sorted_files_of_root_and_one_time() {
        let mut entries = Entries::new();
        add(&mut entries, "b", "two");
        add(&mut entries, "a/c", "one");
        if let Some(entry) = entries.get_mut("b") {
            entry.is_program = true;
        }
        let bytes = tar_gz("oche-1", &entries, 1_700_000_000).expect("an archive");
        assert_eq!(bytes, tar_gz("oche-1", &entries, 1_700_000_000).expect("an archive"));
        assert_ne!(bytes, tar_gz("oche-1", &entries, 1_700_000_001).expect("an archive"));
        assert_eq!(bytes[4..8], [0; 4], "no time of its making");
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
        let mut found = Vec::new();
        for entry in archive.entries().expect("entries") {
            let mut entry = entry.expect("an entry");
            let mut text = String::new();
            entry.read_to_string(&mut text).expect("text");
            let header = entry.header();
            assert_eq!((header.uid().ok(), header.mtime().ok()), (Some(0), Some(1_700_000_000)));
            let path = entry.path().expect("a path").display().to_string();
            found.push((path, header.mode().expect("a mode"), text));
        }
        let expected = [("oche-1/a/c", 0o644, "one"), ("oche-1/b", 0o755, "two")];
        let expected = expected.map(|(path, mode, text)| (path.to_owned(), mode, text.to_owned()));
        assert_eq!(found, expected);
    }
}
