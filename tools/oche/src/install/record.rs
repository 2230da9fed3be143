//! What `oche install` keeps about an installation, and where.
//!
//! ```text
//! /var/lib/oche/state.json        the record, replaced in one move
//! /var/lib/oche/settings.before   the script's settings from before, if there were any
//! /var/lib/oche/oche-HASH.img     the packed image: U_BOOT= of the settings names it
//! ESP/m1n1/boot.bin.before-oche   the boot file from before
//! ```
//! The record is written before the first change and again before the boot file is replaced, so
//! that what an interrupted run has left follows from it and from the files themselves.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::files::{self, MODE};
use super::root::SystemRoot;

/// The folder, in the system.
const FOLDER: &str = "/var/lib/oche";
const RECORD: &str = "state.json";
const SETTINGS: &str = "settings.before";
/// The version of the record's form.
const FORMAT: u32 = 1;

/// An installation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema, Deserialize)]
pub struct Record {
    format: u32,
    /// What was begun last.
    pub phase: Phase,
    /// The boot file from before the first installation.
    pub before: FileMark,
    /// The script's settings.
    pub settings: SettingsMark,
    /// `--esp`, if it was given.
    pub esp: Option<PathBuf>,
    /// What is installed.
    pub installed: Option<Installation>,
    /// What is being installed.
    pub next: Option<Installation>,
}

/// What was begun last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// An installation; it has not ended.
    Installing,
    /// An installation; it has ended.
    Installed,
    /// A removal; it has not ended.
    Uninstalling,
}

/// A file, by its contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema, Deserialize)]
pub struct FileMark {
    /// SHA-256 in hex.
    pub sha256: String,
    /// Bytes.
    pub bytes: u64,
}

/// The script's settings from before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema, Deserialize)]
pub struct SettingsMark {
    /// The path in the system.
    pub path: PathBuf,
    /// The file's contents; `None` if there was no file.
    pub before: Option<FileMark>,
    /// Whether its folder was made.
    pub folder_made: bool,
}

/// One state of the boot file with Oche.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema, Deserialize)]
pub struct Installation {
    /// The version of Oche.
    pub oche: String,
    /// Whether it is the probe, which has no use for the options.
    #[serde(default)]
    pub is_probe: bool,
    /// SHA-256 of the boot file, as soon as it has been verified.
    pub boot_file: Option<String>,
    /// The packed image.
    pub image: PathBuf,
    /// SHA-256 of the packed image.
    pub image_sha256: String,
    /// The packed U-Boot.
    pub u_boot: PackedUBoot,
    /// The packed options.
    pub options: Vec<(String, String)>,
    /// `DTBS=` of the settings, if it is Oche's.
    pub trees: Option<String>,
    /// m1n1's version, if it names one.
    pub m1n1: Option<String>,
    /// The lines of the settings.
    pub block: String,
}

impl Installation {
    /// What starts before U-Boot, in a few words.
    pub(super) fn title(&self) -> String {
        let what = if self.is_probe { "the probe of Oche" } else { "Oche" };
        format!("{what} {}", self.oche)
    }
}

/// A U-Boot that was packed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema, Deserialize)]
pub struct PackedUBoot {
    /// Its path in the system.
    pub path: PathBuf,
    /// Whether `--u-boot` named it.
    pub is_given: bool,
    /// SHA-256 of the file.
    pub sha256: String,
    /// Its version.
    pub banner: String,
}

impl FileMark {
    /// Of a file with these bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self { sha256: files::sha256(bytes), bytes: bytes.len() as u64 }
    }
}

impl Record {
    /// A new record; nothing is changed yet.
    pub(super) fn new(before: FileMark, settings: SettingsMark, esp: Option<PathBuf>) -> Self {
        let phase = Phase::Installing;
        Self { format: FORMAT, phase, before, settings, esp, installed: None, next: None }
    }

    /// The states of the boot file that oche wrote, the latest last.
    pub(super) fn installations(&self) -> impl Iterator<Item = &Installation> {
        self.installed.iter().chain(&self.next)
    }

    /// The installation with this boot file.
    pub(super) fn of_boot_file(&self, sha256: &str) -> Option<&Installation> {
        self.installations().find(|one| one.boot_file.as_deref() == Some(sha256))
    }
}

/// The folder of the record.
#[derive(Clone, Debug)]
pub(super) struct Store {
    folder: PathBuf,
}

impl Store {
    /// Of a system.
    pub(super) fn of(root: &SystemRoot) -> Self {
        Self { folder: root.path(FOLDER) }
    }

    /// Reads the record, if there is one.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is of a newer version.
    pub(super) fn load(&self) -> Result<Option<Record>> {
        let path = self.folder.join(RECORD);
        let Some(bytes) = files::read(&path)? else { return Ok(None) };
        let name = path.display();
        let record: Record = serde_json::from_slice(&bytes).with_context(|| {
            format!("{name} is damaged: restore boot.bin as docs/m1.md says, then remove {name}")
        })?;
        if record.format != FORMAT {
            bail!("{name} is of another version of oche: use that one");
        }
        Ok(Some(record))
    }

    /// Replaces the record.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub(super) fn save(&self, record: &Record) -> Result<()> {
        files::create_folder(&self.folder)?;
        let mut text = serde_json::to_string_pretty(record).context("the record")?;
        text.push('\n');
        files::write(&self.folder.join(RECORD), text.as_bytes(), Some(MODE))
    }

    /// The copy of the settings from before.
    pub(super) fn settings(&self) -> PathBuf {
        self.folder.join(SETTINGS)
    }

    /// Where the image with this SHA-256 is kept, in the system.
    pub(super) fn image_name(sha256: &str) -> PathBuf {
        let short = sha256.get(..12).unwrap_or(sha256);
        Path::new(FOLDER).join(format!("oche-{short}.img"))
    }

    /// A folder that exists, in which the record's folder is or will be.
    pub(super) fn existing_folder(&self) -> &Path {
        self.folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"))
    }

    /// Removes every image but those of `kept`, and what an interrupted run has left.
    ///
    /// # Errors
    ///
    /// A file cannot be removed.
    pub(super) fn remove_images(&self, kept: &[&Path]) -> Result<()> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Ok(()) };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_image = name.starts_with("oche-") && name.ends_with(".img");
            let is_kept = kept.iter().any(|path| path.file_name() == Some(&entry.file_name()));
            if (is_image && !is_kept) || name.ends_with(".oche-tmp") {
                files::remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes everything, the record last.
    ///
    /// # Errors
    ///
    /// A file cannot be removed.
    pub(super) fn remove(&self) -> Result<()> {
        self.remove_images(&[])?;
        files::remove(&self.settings())?;
        let removed = files::remove(&self.folder.join(RECORD));
        // Even if the disk does not answer. A file of somebody else's keeps the folder.
        let _ = fs::remove_dir(&self.folder);
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::{FileMark, Phase, Record, SettingsMark, Store, SystemRoot};
    use std::fs;

    #[test]
    fn a_record_comes_back_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::of(&SystemRoot::open(folder.path()).unwrap());
        assert_eq!(store.load().unwrap(), None);
        let settings = SettingsMark { path: "/e".into(), before: None, folder_made: false };
        let record = Record::new(FileMark::of(b"x"), settings, None);
        store.save(&record).unwrap();
        assert_eq!(store.load().unwrap(), Some(record));
        for name in ["oche-1.img", "oche-2.img", "oche-3.img.oche-tmp", "other"] {
            fs::write(store.folder.join(name), "").unwrap();
        }
        store.remove_images(&["/var/lib/oche/oche-2.img".as_ref()]).unwrap();
        let has = |name: &str| store.folder.join(name).exists();
        assert!(!has("oche-1.img") && has("oche-2.img") && !has("oche-3.img.oche-tmp"));
        store.remove().unwrap();
        assert!(has("other") && !has("oche-2.img") && !has("state.json"));
        fs::remove_file(store.folder.join("other")).unwrap();
        store.remove().unwrap();
        assert!(!store.folder.exists());
    }

    #[test]
    fn a_damaged_or_newer_record_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::of(&SystemRoot::open(folder.path()).unwrap());
        let settings = SettingsMark { path: "/e".into(), before: None, folder_made: false };
        let mut record = Record::new(FileMark::of(b"x"), settings, None);
        (record.format, record.phase) = (2, Phase::Uninstalling);
        store.save(&record).unwrap();
        assert!(store.load().unwrap_err().to_string().contains("another version"));
        fs::write(store.folder.join("state.json"), "{").unwrap();
        assert!(store.load().unwrap_err().to_string().contains("is damaged"));
    }
}
