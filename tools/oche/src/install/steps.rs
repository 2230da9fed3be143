//! An installation, step by step.
//!
//! The order is what makes it safe to interrupt. The record comes first, then the backup, the image
//! and the settings; the script writes a scratch file; what is in that file is verified and on the
//! disk before one move makes it the boot file. Before the move the boot file is untouched, and
//! everything else can be undone ([`settle`]); after it the new one is there whole.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};

use super::files::{self, MODE, NO_FOLDER};
use super::plan::{Plan, Request, System};
use super::record::{FileMark, Phase, Record};
use super::remove::{clean, restore_settings};
use super::verify::{self, Expected, Starts};
use crate::progress::Progress;

/// What an interrupted or failed run has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// There was nothing to settle.
    Nothing,
    /// The boot file had not been replaced: everything is as before that run.
    Undone,
    /// The boot file had been replaced: that run is complete.
    Finished,
}

/// The titles of the steps.
pub(super) fn titles(system: &System, plan: &Plan) -> Vec<String> {
    let name = |path: &Path| system.root.inside(path).display().to_string();
    let (boot_file, backup) = (system.boot_file_name(), name(&system.esp.backup()));
    let keep = match plan.needs_backup {
        true => format!("Keep {boot_file} as {backup}"),
        false => format!("Keep {backup}, the file from before"),
    };
    let next = &plan.next;
    let image = format!(
        "Write {}, {} KiB: {} and {}",
        next.image.display(),
        plan.image.len().div_ceil(1024),
        next.title(),
        next.u_boot.banner
    );
    let trees = if next.trees.is_some() { " and DTBS=" } else { "" };
    vec![
        keep,
        image,
        format!("Set U_BOOT={trees} in {}", plan.script.settings.display()),
        format!("Run {} to write {}", plan.script.path, name(&system.esp.scratch())),
        format!("Verify m1n1, the device tree of {} and Oche in it", system.mac.name),
        format!("Move it to {boot_file}"),
    ]
}

/// Installs, and returns the record.
///
/// # Errors
///
/// A step failed. If the boot file has not been replaced, everything is as before; the error says
/// so, or what remains.
pub(super) fn install(system: &System, plan: &Plan, lock: &File) -> Result<Record> {
    let error = match carry_out(system, plan, lock) {
        Ok(record) => return Ok(record),
        Err(error) => error,
    };
    match settle(system) {
        Ok(Settled::Finished) => Err(error.context("boot.bin is replaced, but")),
        Ok(_) => Err(anyhow::anyhow!("{error:#}; nothing is changed")),
        Err(second) => Err(anyhow::anyhow!(
            "{error:#}; and undoing it failed: {second:#}; boot.bin is whole: `oche status` says \
             what remains"
        )),
    }
}

fn carry_out(system: &System, plan: &Plan, lock: &File) -> Result<Record> {
    let titles = titles(system, plan);
    let progress = Progress::new(titles.len());
    let mut titles = titles.iter();
    let mut step = || progress.step(titles.next().map_or("", String::as_str));
    let (esp, store, root) = (&system.esp, &system.store, &system.root);
    let mut record = plan.record.clone();
    record.next = Some(plan.next.clone());

    let keep = step();
    store.save(&record)?;
    if plan.needs_backup {
        files::write(&esp.backup(), &plan.boot_file, None)?;
        let kept = files::read(&esp.backup())?.map(|bytes| FileMark::of(&bytes));
        if kept.as_ref() != Some(&record.before) {
            anyhow::bail!("{} reads back otherwise than written", esp.backup().display());
        }
    }
    keep_settings(system, plan, &record)?;
    keep.done("");

    let image = step();
    files::write_dateless(&root.path(&plan.next.image), &plan.image)?;
    image.done("");

    let settings = step();
    let path = root.path(&plan.script.settings);
    files::create_folder(path.parent().context(NO_FOLDER)?)?;
    files::write(&path, &plan.settings_next, Some(files::mode_of(&path)))?;
    settings.done("");

    let run = step();
    system.clean_scratch()?;
    plan.script.run(root, &esp.scratch(), lock)?;
    run.done("");

    let check = step();
    let file = files::read(&esp.scratch())?.context("the script wrote no file")?;
    verify_scratch(system, plan, &file)
        .with_context(|| format!("{} wrote a file that m1n1 must not get", plan.script.path))?;
    files::sync(&esp.scratch())?;
    if let Some(next) = &mut record.next {
        next.boot_file = Some(files::sha256(&file));
    }
    store.save(&record)?;
    check.done("");

    let replace = step();
    files::replace(&esp.scratch(), &esp.boot_file())?;
    let record = finish(system, record)?;
    replace.done("");
    Ok(record)
}

/// Keeps the settings from before the first installation.
fn keep_settings(system: &System, plan: &Plan, record: &Record) -> Result<()> {
    let kept = files::read(&system.store.settings())?.map(|bytes| FileMark::of(&bytes));
    if record.settings.before.is_none() || kept == record.settings.before {
        return Ok(());
    }
    let now = plan.settings_now.as_deref().unwrap_or_default();
    // Of a later installation the copy is lost: the settings are then only relieved of the lines.
    if Some(FileMark::of(now)) == record.settings.before {
        files::write(&system.store.settings(), now, Some(MODE))?;
    }
    Ok(())
}

fn verify_scratch(system: &System, plan: &Plan, file: &[u8]) -> Result<()> {
    let now = files::read(&system.esp.boot_file())?.unwrap_or_default();
    if now != plan.boot_file {
        anyhow::bail!("boot.bin has been changed meanwhile");
    }
    let values = &plan.values;
    let trees = plan.tree_files(&system.root)?;
    let m1n1 = files::read(&system.root.path(&values.m1n1))?.context("m1n1 is gone")?;
    let configuration = files::read(&system.root.path(&values.configuration))?.unwrap_or_default();
    let expected = Expected {
        m1n1: &m1n1,
        trees: &trees,
        configuration: &String::from_utf8_lossy(&configuration),
        kernel: &plan.image,
        mac: &system.mac.name,
    };
    verify::check(file, &expected)
}

/// Records what was being installed as installed.
fn finish(system: &System, mut record: Record) -> Result<Record> {
    record.installed = record.next.take().or(record.installed);
    record.phase = Phase::Installed;
    system.store.save(&record)?;
    let kept = record.installed.as_ref().map(|one| one.image.as_path());
    system.store.remove_images(kept.as_slice())?;
    Ok(record)
}

/// Ends an installation that was interrupted or failed: completes it if the boot file has been
/// replaced, and undoes it otherwise. What is on the disk decides.
///
/// # Errors
///
/// A file cannot be read or written; it can be called again.
pub(super) fn settle(system: &System) -> Result<Settled> {
    let Some(mut record) = system.store.load()? else {
        system.clean_scratch()?;
        system.store.remove()?;
        return Ok(Settled::Nothing);
    };
    if record.phase != Phase::Installing {
        system.clean_scratch()?;
        return Ok(Settled::Nothing);
    }
    let boot_file = files::read(&system.esp.boot_file())?;
    let sha256 = boot_file.as_deref().map(files::sha256);
    if is_replaced(&record, boot_file.as_deref(), sha256.as_deref()) {
        if let Some(next) = &mut record.next {
            next.boot_file = sha256;
        }
        system.clean_scratch()?;
        finish(system, record)?;
        return Ok(Settled::Finished);
    }
    restore_settings(system, &record, record.installed.as_ref().map(|one| one.block.as_str()))?;
    system.clean_scratch()?;
    record.next = None;
    match &record.installed {
        Some(installed) => {
            let kept = installed.image.clone();
            record.phase = Phase::Installed;
            system.store.save(&record)?;
            system.store.remove_images(&[&kept])?;
        }
        None => clean(system, &record)?,
    }
    Ok(Settled::Undone)
}

/// Whether the boot file is the one that was being installed, or one that a later run of the script
/// made with the same image.
pub(super) fn is_replaced(record: &Record, file: Option<&[u8]>, sha256: Option<&str>) -> bool {
    let (Some(file), Some(sha256), Some(next)) = (file, sha256, &record.next) else { return false };
    if next.boot_file.as_deref() == Some(sha256) {
        return true;
    }
    let is_same = |one: &super::record::Installation, image: &str| one.image_sha256 == image;
    match verify::starts(file) {
        Starts::Oche(image) => {
            is_same(next, &image)
                && !record.installed.as_ref().is_some_and(|one| is_same(one, &image))
        }
        _ => false,
    }
}

/// Opens the system, settles an interrupted installation if there is one, and plans the next.
///
/// # Errors
///
/// A check failed; nothing is changed.
pub(super) fn prepare(
    open: impl Fn() -> Result<System>,
    request: &Request,
) -> Result<(System, Plan, File, Settled)> {
    let system = open()?;
    let lock = system.lock()?;
    // The record is read again: another `oche` may have ended between the two.
    let system = System { record: system.store.load()?, ..system };
    let plan = Plan::make(&system, request)?;
    let is_open = system.record.as_ref().is_some_and(|one| one.phase == Phase::Installing);
    if !is_open {
        system.clean_scratch()?;
        return Ok((system, plan, lock, Settled::Nothing));
    }
    let settled = settle(&system)?;
    let system = System { record: system.store.load()?, ..system };
    let plan = Plan::make(&system, request)?;
    Ok((system, plan, lock, settled))
}
