//! A removal, step by step.

use std::fs::{self, File};

use anyhow::{Context, Result, bail};
use schemars::JsonSchema;
use serde::Serialize;

use super::files;
use super::plan::{System, default_u_boot};
use super::record::{FileMark, Phase, Record};
use super::script::UpdateScript;
use super::settings;
use super::verify::{self, Expected, Starts};
use crate::pack::kernel_image::KernelImage;
use crate::progress::Progress;

/// What becomes of the boot file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum BootFileAction {
    /// It is the one from before.
    AsBefore,
    /// It was replaced by a file without Oche since: it stays.
    WithoutOche,
    /// The backup takes its place.
    Restore,
    /// It was written again since, with a newer m1n1 or other device trees: the script writes it,
    /// with the settings from before.
    Rebuild,
}

/// What became of the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum SettingsOutcome {
    /// They had no lines of Oche.
    Untouched,
    /// They are as before, byte for byte.
    Restored,
    /// They were edited since: only Oche's lines are gone.
    LinesRemoved,
}

/// A removal that has ended.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Removal {
    pub(super) boot_file: BootFileAction,
    pub(super) settings: SettingsOutcome,
    /// Whether the backup stays.
    pub(super) keeps_backup: bool,
}

/// What a removal has to do with the boot file.
///
/// # Errors
///
/// A file cannot be read.
pub(super) fn decide(
    system: &System,
    record: &Record,
    wants_backup: bool,
) -> Result<BootFileAction> {
    let file = files::read(&system.esp.boot_file())?;
    let mark = file.as_deref().map(FileMark::of);
    if mark.as_ref() == Some(&record.before) {
        return Ok(BootFileAction::AsBefore);
    }
    let has_backup = system.backup_is_whole(record)?;
    if wants_backup && !has_backup {
        bail!("{} is missing or damaged: it cannot be restored", system.esp.backup().display());
    }
    let restore = if has_backup { BootFileAction::Restore } else { BootFileAction::Rebuild };
    let (Some(file), Some(mark)) = (file, mark) else { return Ok(restore) };
    if wants_backup || record.of_boot_file(&mark.sha256).is_some() {
        return Ok(restore);
    }
    Ok(match verify::starts(&file) {
        Starts::Oche(_) => BootFileAction::Rebuild,
        Starts::UBoot(_) => BootFileAction::WithoutOche,
        Starts::Other(_) => restore,
    })
}

/// The titles of the steps.
pub(super) fn titles(system: &System, record: &Record, action: BootFileAction) -> Vec<String> {
    let boot_file = system.boot_file_name();
    let backup = system.root.inside(&system.esp.backup()).display().to_string();
    let second = match action {
        BootFileAction::AsBefore => format!("Leave {boot_file}, which is as before"),
        BootFileAction::WithoutOche => format!("Leave {boot_file}, which has no Oche"),
        BootFileAction::Restore => format!("Move {backup} to {boot_file}"),
        BootFileAction::Rebuild => {
            format!("Write {boot_file} with the settings from before: it was written again since")
        }
    };
    vec![
        format!("Restore {}", record.settings.path.display()),
        second,
        "Remove the image and the record".to_owned(),
    ]
}

/// Removes Oche.
///
/// # Errors
///
/// A step failed; the boot file is whole, and the command may be run again.
pub(super) fn uninstall(
    system: &System,
    mut record: Record,
    action: BootFileAction,
    lock: &File,
) -> Result<Removal> {
    let titles = titles(system, &record, action);
    let progress = Progress::new(titles.len());
    let mut titles = titles.iter();
    let mut step = || progress.step(titles.next().map_or("", String::as_str));

    let first = step();
    record.phase = Phase::Uninstalling;
    system.store.save(&record)?;
    let settings = restore_settings(system, &record, None)?;
    first.done("");

    let second = step();
    system.clean_scratch()?;
    match action {
        BootFileAction::Restore => files::replace(&system.esp.backup(), &system.esp.boot_file())?,
        BootFileAction::Rebuild => rebuild(system, lock).context(
            "cannot write a boot.bin without Oche; `oche uninstall --restore-backup` puts back the \
             one from before the installation",
        )?,
        BootFileAction::AsBefore | BootFileAction::WithoutOche => {}
    }
    second.done("");

    let third = step();
    let keeps_backup = action == BootFileAction::Rebuild && system.esp.backup().exists();
    if keeps_backup {
        system.store.remove()?
    } else {
        clean(system, &record)?
    }
    third.done("");
    Ok(Removal { boot_file: action, settings, keeps_backup })
}

/// Removes all files of an installation: the backup too, which is of no more use.
///
/// # Errors
///
/// A file cannot be removed.
pub(super) fn clean(system: &System, record: &Record) -> Result<()> {
    if !system.esp.boot_file().exists() && system.backup_is_whole(record)? {
        files::replace(&system.esp.backup(), &system.esp.boot_file())?;
    }
    files::remove(&system.esp.backup())?;
    system.store.remove()
}

/// Restores the settings: to those from before, or to `block` behind what the user wrote.
///
/// # Errors
///
/// A file cannot be read or written.
pub(super) fn restore_settings(
    system: &System,
    record: &Record,
    block: Option<&str>,
) -> Result<SettingsOutcome> {
    let path = system.root.path(&record.settings.path);
    let now = files::read(&path)?;
    files::remove(&files::fresh_name(&path))?;
    let (own, present) = settings::split(now.as_deref().unwrap_or_default());
    let Some(present) = present else {
        remove_folder(system, record);
        return Ok(SettingsOutcome::Untouched);
    };
    if let Some(block) = block {
        files::write(&path, &settings::with_block(&own, block), Some(files::mode_of(&path)))?;
        return Ok(SettingsOutcome::LinesRemoved);
    }
    let kept = files::read(&system.store.settings())?;
    let kept = kept.filter(|bytes| Some(FileMark::of(bytes)) == record.settings.before);
    let before = kept.as_deref().unwrap_or_default();
    let is_known = kept.is_some() || record.settings.before.is_none();
    let is_unedited = is_known && now.as_deref() == Some(&*settings::with_block(before, &present));
    if is_unedited && kept.is_none() {
        files::remove(&path)?;
        remove_folder(system, record);
    } else {
        let bytes = if is_unedited { before } else { &own };
        files::write(&path, bytes, Some(files::mode_of(&path)))?;
    }
    Ok(match is_unedited {
        true => SettingsOutcome::Restored,
        false => SettingsOutcome::LinesRemoved,
    })
}

/// Removes the folder of the settings if it was made for them and is empty.
fn remove_folder(system: &System, record: &Record) {
    let path = system.root.path(&record.settings.path);
    if let (true, Some(folder)) = (record.settings.folder_made, path.parent()) {
        let _ = fs::remove_dir(folder);
    }
}

/// Has the script write the boot file without Oche, and verifies it before it replaces the present.
fn rebuild(system: &System, lock: &File) -> Result<()> {
    let root = &system.root;
    let script = UpdateScript::find(root)?;
    let settings = files::read(&root.path(&script.settings))?.unwrap_or_default();
    let values = script.values(root, &settings)?;
    let u_boot = default_u_boot(root, &values).context("no U-Boot is installed")?;
    let kernel = KernelImage::read_u_boot(&root.path(u_boot))?;
    script.run(root, &system.esp.scratch(), lock)?;
    let file = files::read(&system.esp.scratch())?.context("the script wrote no file")?;
    let read =
        |name: &String| fs::read(root.path(name)).with_context(|| format!("cannot read {name}"));
    let trees: Vec<(String, Vec<u8>)> = values
        .tree_files
        .iter()
        .map(|name| Ok((name.clone(), read(name)?)))
        .collect::<Result<_>>()?;
    let configuration = files::read(&root.path(&values.configuration))?.unwrap_or_default();
    let expected = Expected {
        m1n1: &read(&values.m1n1)?,
        trees: &trees,
        configuration: &String::from_utf8_lossy(&configuration),
        kernel: kernel.bytes(),
        mac: &system.mac.name,
    };
    if let Err(error) = verify::check(&file, &expected) {
        system.clean_scratch()?;
        return Err(error);
    }
    files::sync(&system.esp.scratch())?;
    files::replace(&system.esp.scratch(), &system.esp.boot_file())
}

impl System {
    /// Whether the backup is there with the bytes from before the installation.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub(super) fn backup_is_whole(&self, record: &Record) -> Result<bool> {
        let bytes = files::read(&self.esp.backup())?;
        Ok(bytes.is_some_and(|bytes| FileMark::of(&bytes) == record.before))
    }
}
