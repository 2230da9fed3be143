//! The arguments of `oche install`, `oche status` and `oche uninstall`, and what they do.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use super::plan::{Plan, Request, System};
use super::record::{Installation, Phase, Record};
use super::remove::{self, BootFileAction, Removal, SettingsOutcome};
use super::status::Status;
use super::steps::{self, Settled};
use crate::output::to_standard_output;
use crate::pack::command::parse_option;

/// The system that a command is about.
#[derive(Debug, Args)]
struct SystemArguments {
    /// Work on the system below this folder, with its own device tree in DIR/proc/device-tree
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Take the EFI system partition that is mounted here; without it, the one that m1n1 names
    #[arg(long, value_name = "DIR")]
    esp: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl SystemArguments {
    fn open(&self) -> Result<System> {
        System::open(&self.root, self.esp.as_deref())
    }
}

/// What `oche install --json` prints.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Installed<'a> {
    record: &'a Record,
    warnings: &'a [String],
}

/// What `oche install --dry-run --json` prints.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Planned<'a> {
    steps: &'a [String],
    warnings: &'a [String],
    /// What would be installed.
    next: &'a Installation,
}

/// What `oche uninstall --dry-run --json` prints.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PlannedRemoval<'a> {
    steps: &'a [String],
}

/// Put Oche and U-Boot into m1n1's boot.bin, by the distribution's update-m1n1.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  oche install --dry-run                      lists what would be done, and changes nothing
  sudo oche install --probe                   measures the Mac at each boot, then starts U-Boot
  sudo oche install
  sudo oche install --option oche.darts=none
  sudo oche install --dtbs '/boot/dtbs/t8103-*.dtb'

Run it again after an update of U-Boot, of oche, or to change options. All paths are those of the
system below --root, but for --oche. The old boot.bin is kept beside the new one as
boot.bin.before-oche; `oche uninstall` puts it back. However it is interrupted, boot.bin is the old one or the new one, whole.

Exit codes: 0, installed; 2, an error, and nothing is changed unless it says so.")]
pub struct InstallArguments {
    #[command(flatten)]
    system: SystemArguments,
    /// Pack this U-Boot (u-boot-nodtb.bin); without it, the distribution's
    #[arg(long, value_name = "FILE")]
    u_boot: Option<PathBuf>,
    /// Pack an option of Oche; may be repeated. Without any, those of the last installation stay
    #[arg(long = "option", value_name = "oche.NAME=VALUE", value_parser = parse_option)]
    options: Vec<(String, String)>,
    /// Pack no options, not even those of the last installation
    #[arg(long, conflicts_with = "options")]
    no_options: bool,
    /// Take the device trees of this pattern (DTBS= of update-m1n1); without it, the script's
    #[arg(long, value_name = "PATTERN")]
    dtbs: Option<String>,
    /// Install the probe in Oche's place: it measures the Mac, shows the report for 90 seconds, and
    /// starts U-Boot as if it had not been there. The next `oche install` replaces it
    #[arg(long, conflicts_with_all = ["options", "no_options"])]
    probe: bool,
    /// Pack this ELF file of Oche, or of the probe; without it, the one that this program carries
    #[arg(long, value_name = "FILE")]
    oche: Option<PathBuf>,
    /// List the steps and change nothing
    #[arg(long)]
    dry_run: bool,
}

impl InstallArguments {
    /// Installs.
    ///
    /// # Errors
    ///
    /// The system is not one to install to, or a step failed.
    pub fn run(&self) -> Result<ExitCode> {
        let options = (self.no_options || !self.options.is_empty()).then(|| self.options.clone());
        let request = Request {
            esp: self.system.esp.clone(),
            u_boot: self.u_boot.clone(),
            options,
            trees: self.dtbs.clone(),
            oche: self.oche.clone(),
            is_probe: self.probe,
        };
        if self.dry_run {
            return self.describe(&request);
        }
        let (system, plan, lock, settled) = steps::prepare(|| self.system.open(), &request)?;
        match settled {
            Settled::Nothing => {}
            Settled::Undone => crate::message!("an interrupted installation is undone first"),
            Settled::Finished => crate::message!("an interrupted installation is completed first"),
        }
        plan.warn();
        let record = steps::install(&system, &plan, &lock)?;
        let text = format!(
            "{} starts {} and then {}\nTo go back: oche uninstall\n",
            system.boot_file_name(),
            plan.next.title(),
            plan.next.u_boot.banner
        );
        self.print(&text, &json!(Installed { record: &record, warnings: &plan.warnings }))
    }

    fn describe(&self, request: &Request) -> Result<ExitCode> {
        let system = self.system.open()?;
        let plan = Plan::make(&system, request)?;
        let mut steps = steps::titles(&system, &plan);
        if system.record.as_ref().is_some_and(|record| record.phase == Phase::Installing) {
            steps.insert(0, "Settle the interrupted installation".to_owned());
        }
        plan.warn();
        let mut text = format!("Found {} by {}\n", system.boot_file_name(), system.esp.found);
        for step in &steps {
            text.push_str(&format!("  {step}\n"));
        }
        text.push_str("Nothing is changed (--dry-run)\n");
        self.print(
            &text,
            &json!(Planned { steps: &steps, warnings: &plan.warnings, next: &plan.next }),
        )
    }

    fn print(&self, text: &str, json: &serde_json::Value) -> Result<ExitCode> {
        print(self.system.json, text, json)
    }
}

impl Plan {
    fn warn(&self) {
        for warning in &self.warnings {
            crate::message!("oche: warning: {warning}");
        }
    }
}

/// Show whether Oche is installed and whole, and what to do if it is not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo oche status
  sudo oche status --json

Exit codes: 0, nothing is amiss; 1, something is, and the line says what to do; 2, an error.")]
pub struct StatusArguments {
    #[command(flatten)]
    system: SystemArguments,
}

impl StatusArguments {
    /// Prints the state.
    ///
    /// # Errors
    ///
    /// A file cannot be read.
    pub fn run(&self) -> Result<ExitCode> {
        let status = Status::of(&self.system.open()?)?;
        print(self.system.json, &status.to_string(), &serde_json::to_value(&status)?)?;
        Ok(if status.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Put back the boot.bin and the settings from before `oche install`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  oche uninstall --dry-run
  sudo oche uninstall

boot.bin gets the very bytes from before. If update-m1n1 has written it again since, with a newer
m1n1 or other device trees, those bytes may be too old for the system: the script then writes it
without Oche, and the file from before stays as boot.bin.before-oche. --restore-backup takes that file in any case.

Exit codes: 0, Oche is gone; 2, an error, and boot.bin is whole.")]
pub struct UninstallArguments {
    #[command(flatten)]
    system: SystemArguments,
    /// Put back the boot.bin from before even if a newer one was written since
    #[arg(long)]
    restore_backup: bool,
    /// List the steps and change nothing
    #[arg(long)]
    dry_run: bool,
}

impl UninstallArguments {
    /// Removes Oche.
    ///
    /// # Errors
    ///
    /// Oche is not installed, or a step failed.
    pub fn run(&self) -> Result<ExitCode> {
        let system = self.system.open()?;
        let lock = system.lock()?;
        let record = system.store.load()?;
        let Some(record) = record else {
            bail!("no Oche is installed in {} by `oche install`", self.system.root.display());
        };
        let action = remove::decide(&system, &record, self.restore_backup)?;
        if self.dry_run {
            let steps = remove::titles(&system, &record, action);
            let text = format!("  {}\nNothing is changed (--dry-run)\n", steps.join("\n  "));
            return print(self.system.json, &text, &json!(PlannedRemoval { steps: &steps }));
        }
        system.esp.check_writable(0)?;
        let removal = remove::uninstall(&system, record, action, &lock)?;
        let text = describe(&system, &removal);
        print(self.system.json, &text, &serde_json::to_value(&removal)?)
    }
}

fn describe(system: &System, removal: &Removal) -> String {
    let name = system.boot_file_name();
    let mut text = match removal.boot_file {
        BootFileAction::AsBefore | BootFileAction::Restore => {
            format!("{name} is the one from before the installation\n")
        }
        BootFileAction::WithoutOche => format!("{name} had no Oche any more and stays\n"),
        BootFileAction::Rebuild => format!("{name} was written by update-m1n1, without Oche\n"),
    };
    if removal.settings == SettingsOutcome::LinesRemoved {
        text.push_str("The settings were edited since: only Oche's lines are removed\n");
    }
    if removal.keeps_backup {
        let backup = system.root.inside(&system.esp.backup());
        text.push_str(&format!("{} stays: remove it after a good boot\n", backup.display()));
    }
    text
}

fn print(as_json: bool, text: &str, json: &serde_json::Value) -> Result<ExitCode> {
    to_standard_output(|out| match as_json {
        true => writeln!(out, "{json:#}"),
        false => write!(out, "{text}"),
    })?;
    Ok(ExitCode::SUCCESS)
}
