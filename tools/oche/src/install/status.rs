//! `oche status`: what is installed, whether it is whole, and what to do if it is not.

use std::fmt;

use anyhow::Result;
use schemars::JsonSchema;
use serde::Serialize;

use super::files;
use super::plan::{System, default_u_boot};
use super::record::{FileMark, Phase, Record};
use super::script::UpdateScript;
use super::settings;
use super::steps::is_replaced;
use super::verify::{self, Starts};

/// The state of an installation.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Status {
    /// The Mac's model and its name in the device tree.
    pub mac: (String, String),
    /// The boot file.
    pub boot_file: String,
    /// What the boot file is.
    pub state: BootFileState,
    /// What it starts: the version of Oche or of U-Boot, or what it has instead.
    pub starts: String,
    /// The record, if Oche is or was being installed.
    pub record: Option<Record>,
    /// The version of the U-Boot that the distribution has.
    pub u_boot: Option<String>,
    /// Whether the boot file from before is there and whole.
    pub backup: Option<bool>,
    /// What is amiss, and the remedy of each.
    pub problems: Vec<String>,
}

/// What the boot file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BootFileState {
    /// There is none.
    Missing,
    /// It is without Oche; if Oche is or was being installed, the very file from before.
    WithoutOche,
    /// It is the file that `oche install` wrote.
    Installed,
    /// It was written again since, with the same image of Oche.
    Rewritten,
    /// It has another Oche than the record says.
    OtherOche,
    /// It starts neither.
    Other,
}

impl Status {
    /// Looks at a system. Nothing is changed.
    ///
    /// # Errors
    ///
    /// A file cannot be read.
    pub(super) fn of(system: &System) -> Result<Self> {
        let file = files::read(&system.esp.boot_file())?;
        let record = system.record.clone();
        let (state, starts) = judge(record.as_ref(), file.as_deref());
        let mut status = Self {
            mac: (system.mac.model.clone(), system.mac.name.clone()),
            boot_file: system.boot_file_name(),
            state,
            starts,
            backup: None,
            u_boot: None,
            problems: Vec::new(),
            record: None,
        };
        match &record {
            Some(record) => status.judge_record(system, record, file.as_deref())?,
            None => status.judge_without_record(system),
        }
        status.record = record;
        Ok(status)
    }

    fn judge_without_record(&mut self, system: &System) {
        let backup = system.root.inside(&system.esp.backup());
        match self.state {
            BootFileState::OtherOche => self.problems.push(format!(
                "{} has an Oche that `oche install` did not put there: update it by hand",
                self.boot_file
            )),
            BootFileState::Missing => self.problems.push(format!(
                "{} is missing: m1n1 starts nothing; restore it from boot.bin.old",
                self.boot_file
            )),
            BootFileState::Other => self.problems.push(format!(
                "{} is not what update-m1n1 writes: run update-m1n1",
                self.boot_file
            )),
            _ => {}
        }
        if system.esp.backup().exists() {
            self.problems.push(format!(
                "{} is left of an installation: remove it when the Mac boots well",
                backup.display()
            ));
        }
    }

    fn judge_record(
        &mut self,
        system: &System,
        record: &Record,
        file: Option<&[u8]>,
    ) -> Result<()> {
        self.judge_phase(record, file);
        if self.state == BootFileState::Missing {
            self.problems.push(format!(
                "{} is missing: m1n1 starts nothing; run `oche uninstall`",
                self.boot_file
            ));
        }
        if record.phase != Phase::Installed {
            return Ok(());
        }
        match self.state {
            BootFileState::WithoutOche => self.problems.push(format!(
                "{} was replaced by one without Oche: run `oche install`, or `oche uninstall`",
                self.boot_file
            )),
            BootFileState::Other | BootFileState::OtherOche => self.problems.push(format!(
                "{} is not what was installed ({}): run `oche install`, or `oche uninstall`",
                self.boot_file, self.starts
            )),
            _ => {}
        }
        let whole = system.backup_is_whole(record)?;
        self.backup = Some(whole);
        if !whole {
            self.problems.push(format!(
                "{} is missing or damaged: `oche uninstall` would write boot.bin with update-m1n1",
                system.root.inside(&system.esp.backup()).display()
            ));
        }
        self.judge_settings(system, record)
    }

    fn judge_phase(&mut self, record: &Record, file: Option<&[u8]>) {
        let name = &self.boot_file;
        let sha256 = file.map(files::sha256);
        self.problems.extend(match record.phase {
            Phase::Installed => None,
            Phase::Installing if is_replaced(record, file, sha256.as_deref()) => Some(format!(
                "an installation was interrupted; {name} is the new one, whole: run `oche install` \
                 to complete it"
            )),
            Phase::Installing => Some(format!(
                "an installation was interrupted; {name} is the old one, whole: run `oche \
                 install` again, or `oche uninstall` to undo it"
            )),
            Phase::Uninstalling => Some(format!(
                "a removal was interrupted; {name} is whole: run `oche uninstall` again"
            )),
        });
    }

    /// The settings, the image that they name, and the packed U-Boot.
    fn judge_settings(&mut self, system: &System, record: &Record) -> Result<()> {
        let Some(installed) = &record.installed else { return Ok(()) };
        let root = &system.root;
        let image = files::read(&root.path(&installed.image))?;
        if image.is_none_or(|bytes| files::sha256(&bytes) != installed.image_sha256) {
            self.problems.push(format!(
                "{} is missing or damaged: run `oche install`",
                installed.image.display()
            ));
        }
        let script = match UpdateScript::find(root) {
            Ok(script) => script,
            Err(error) => {
                self.problems.push(format!("{error:#}"));
                return Ok(());
            }
        };
        let path = script.settings.display();
        let settings = files::read(&root.path(&script.settings))?.unwrap_or_default();
        let (own, block) = settings::split(&settings);
        if block.as_deref() != Some(&installed.block) {
            self.problems.push(format!(
                "{path} has no lines of Oche, or others: its next run removes Oche; run `oche \
                 install`"
            ));
        }
        let values = match script.values(root, &own) {
            Ok(values) => values,
            Err(error) => {
                self.problems.push(format!("{error:#}"));
                return Ok(());
            }
        };
        self.judge_u_boot(system, installed, default_u_boot(root, &values))
    }

    fn judge_u_boot(
        &mut self,
        system: &System,
        installed: &super::record::Installation,
        default: Option<std::path::PathBuf>,
    ) -> Result<()> {
        let packed = &installed.u_boot;
        let path = if packed.is_given { Some(packed.path.clone()) } else { default };
        let file = match &path {
            Some(path) => files::read(&system.root.path(path))?,
            None => None,
        };
        let (Some(path), Some(file)) = (path, file) else {
            self.problems.push(format!("{} is gone: install u-boot-asahi", packed.path.display()));
            return Ok(());
        };
        let banner = oche_boot::banner::find(&file).unwrap_or("of an unknown version").to_owned();
        if FileMark::of(&file).sha256 != packed.sha256 {
            self.problems.push(format!(
                "the packed U-Boot is not the one of {}: run `oche install` to pack it ({banner})",
                path.display()
            ));
        }
        self.u_boot = Some(banner);
        Ok(())
    }
}

/// What the boot file is, and what it starts.
fn judge(record: Option<&Record>, file: Option<&[u8]>) -> (BootFileState, String) {
    let Some(file) = file else { return (BootFileState::Missing, "nothing".to_owned()) };
    let sha256 = files::sha256(file);
    match verify::starts(file) {
        Starts::UBoot(banner) => (BootFileState::WithoutOche, banner),
        Starts::Other(what) => (BootFileState::Other, what),
        Starts::Oche(image) => {
            let known = record
                .and_then(|record| record.installations().find(|one| one.image_sha256 == image));
            match known {
                Some(one) if one.boot_file.as_deref() == Some(&*sha256) => {
                    (BootFileState::Installed, one.title())
                }
                Some(one) => (BootFileState::Rewritten, one.title()),
                None => (BootFileState::OtherOche, format!("an Oche with SHA-256 {image}")),
            }
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "mac       {} ({})", self.mac.0, self.mac.1)?;
        let installed = self.record.as_ref().filter(|record| record.phase == Phase::Installed);
        let installed = installed.and_then(|record| record.installed.as_ref());
        match installed {
            Some(one) if one.is_probe => {
                writeln!(
                    out,
                    "oche      {} is installed: `oche install` replaces it",
                    one.title()
                )?;
            }
            Some(one) => writeln!(out, "oche      {} is installed", one.oche)?,
            None => writeln!(out, "oche      is not installed")?,
        }
        let state = match self.state {
            BootFileState::Missing => "is missing",
            BootFileState::WithoutOche => "has no Oche",
            BootFileState::Installed => "verified, as installed",
            BootFileState::Rewritten => "written again since by update-m1n1, with this Oche",
            BootFileState::OtherOche => "has another Oche",
            BootFileState::Other => "is not what update-m1n1 writes",
        };
        writeln!(out, "boot.bin  {}: {state}\n          starts {}", self.boot_file, self.starts)?;
        if let Some(one) = installed {
            writeln!(out, "packed    {}", one.u_boot.banner)?;
            if let Some(u_boot) = &self.u_boot {
                writeln!(out, "package   {u_boot}")?;
            }
            for (name, value) in one.options.iter().filter(|_| !one.is_probe) {
                writeln!(out, "option    {name}={value}")?;
            }
        }
        if let Some(whole) = self.backup {
            writeln!(out, "backup    {}", if whole { "verified" } else { "missing or damaged" })?;
        }
        for problem in &self.problems {
            writeln!(out, "problem:  {problem}")?;
        }
        Ok(())
    }
}
