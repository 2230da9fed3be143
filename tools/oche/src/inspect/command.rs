//! `oche inspect`: its arguments and what it does.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use super::boot_file::{BootFile, Taken};
use super::image::{self, Contents};
use crate::destination::refuse_input;
use crate::output::to_standard_output;
use crate::workspace;

/// List the contents of a packed image, or of m1n1's boot.bin.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  oche inspect oche.img.gz
  oche inspect /boot/efi/m1n1/boot.bin
  oche inspect boot.bin --mac j313 --json
  oche inspect boot.bin --extract-kernel found.img

A boot.bin is read as m1n1 reads it: each payload with its place, then what m1n1 takes.

Exit codes: 0, it boots as far as can be seen; 1, m1n1 or Oche would stop at it; 2, another error.")]
pub struct InspectArguments {
    /// The packed image, compressed with gzip or not, or m1n1's boot.bin
    file: PathBuf,
    /// Of a boot.bin, show what m1n1 takes on this Mac, such as j313
    #[arg(long)]
    mac: Option<String>,
    /// Of a boot.bin, write the kernel that m1n1 starts, expanded, to this file
    #[arg(long, value_name = "FILE")]
    extract_kernel: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints of a packed image.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ImageAnswer<'a> {
    image: &'a Contents,
}

/// What `--json` prints of a boot file of m1n1.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct BootFileAnswer<'a> {
    boot_file: &'a BootFile,
    /// What m1n1 takes of it.
    taken: &'a Taken,
}

impl InspectArguments {
    /// Prints what is inside.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is neither a packed image nor a boot file.
    pub fn run(&self) -> Result<ExitCode> {
        let name = self.file.display();
        let file = fs::read(&self.file).with_context(|| format!("cannot read {name}"))?;
        let read = BootFile::read(&file).with_context(|| format!("{name} is no boot.bin"))?;
        if let Some(boot_file) = read {
            return self.boot_file(&boot_file);
        }
        if self.mac.is_some() || self.extract_kernel.is_some() {
            bail!("{name} is no boot.bin: m1n1 is not in it");
        }
        let contents = image::contents(file).with_context(|| {
            format!("{name} is neither an image that `oche pack` wrote nor a boot.bin of m1n1")
        })?;
        self.image(&contents)?;
        Ok(ExitCode::SUCCESS)
    }

    fn image(&self, contents: &Contents) -> Result<()> {
        to_standard_output(|out| match self.json {
            true => writeln!(out, "{:#}", json!(ImageAnswer { image: contents })),
            false => write!(out, "{contents}"),
        })
    }

    fn boot_file(&self, boot_file: &BootFile) -> Result<ExitCode> {
        let taken = boot_file.taken(self.mac.as_deref());
        if let Some(path) = &self.extract_kernel {
            refuse_input(path, [self.file.as_path()])?;
            let (_, kernel) = boot_file.kernel().context("m1n1 finds no kernel in it")?;
            workspace::write_whole(path, &kernel.image)?;
        }
        to_standard_output(|out| match self.json {
            true => writeln!(out, "{:#}", json!(BootFileAnswer { boot_file, taken: &taken })),
            false => write!(out, "{boot_file}{taken}"),
        })?;
        Ok(exit_code(&taken))
    }
}

fn exit_code(taken: &Taken) -> ExitCode {
    if taken.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
