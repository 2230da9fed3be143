//! `oche check-kernel`: its arguments and what it does.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use super::config::{self, KernelConfig};
use super::device_tree::MacTree;
use super::initrd::InitrdModules;
use super::judgement::{Judgement, Known, judge};
use super::kernel::{KernelFile, KernelKind};
use super::text::Report;
use crate::output::to_standard_output;

/// List which devices of an M1 Mac a kernel can drive, and what is missing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  oche check-kernel /boot/vmlinuz-6.17.7
  oche check-kernel Image --config .config
  oche check-kernel vmlinuz --initrd initrd.img --device-tree t8103-j313.dtb
  oche check-kernel vmlinuz --json

The configuration is the named one, or the kernel's own (CONFIG_IKCONFIG), or config-VERSION beside it.
`built in` and `module` mean that the drivers are there. No verdict was tried on a Mac.

Exit codes: 0, usable; 1, it would not start from the internal SSD on Oche: no driver of the SoC, the
DARTs or the SSD, a module that the initrd lacks, or a wrong page size; 2, another error, or there is no
configuration to tell.")]
pub struct CheckKernelArguments {
    /// The kernel: an arm64 Image (raw, gzip or EFI zboot), or u-boot-nodtb.bin
    file: PathBuf,
    /// Read the kernel's configuration from this file, compressed with gzip or not
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// List only the devices of the Mac whose compiled device tree this is
    #[arg(long, value_name = "DTB")]
    device_tree: Option<PathBuf>,
    /// Check that this initrd has the modules that the root file system needs
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl CheckKernelArguments {
    /// Prints the verdicts.
    ///
    /// # Errors
    ///
    /// A file cannot be read or is another thing than it should be.
    pub fn run(&self) -> Result<ExitCode> {
        let kernel = KernelFile::read(&self.file)?;
        let tree = self.device_tree.as_deref().map(MacTree::read).transpose()?;
        let initrd = self.initrd.as_deref().map(InitrdModules::read).transpose()?;
        let version = Some(kernel.version()).filter(|_| kernel.kind == KernelKind::Linux);
        let found = config::find(self.config.as_deref(), &kernel.image, &self.file, version)?;
        let mut report = Report {
            kernel: &kernel,
            config: found.as_ref().map(|(_, source)| source),
            tree: tree.as_ref(),
            initrd: self.initrd.as_ref().map(|path| path.display().to_string()),
            judgement: None,
        };
        if kernel.kind == KernelKind::UBoot {
            self.print(&report)?;
            return Ok(ExitCode::SUCCESS);
        }
        let config = found.as_ref().map(|(config, _)| config);
        if let Some(config) = config {
            agree(config, &kernel)?;
        }
        let judgement = judge(&Known {
            release: kernel.release(),
            version: kernel.version(),
            page_bytes: kernel.page_bytes,
            is_big_endian: kernel.is_big_endian,
            config,
            tree: tree.as_ref(),
            initrd: initrd.as_ref(),
        });
        report.judgement = Some(&judgement);
        self.print(&report)?;
        Ok(exit_code(&judgement))
    }

    fn print(&self, report: &Report<'_>) -> Result<()> {
        to_standard_output(|out| match self.json {
            true => writeln!(out, "{:#}", report.json()),
            false => write!(out, "{report}"),
        })
    }
}

/// Refuses the configuration of another kernel.
fn agree(config: &KernelConfig, kernel: &KernelFile) -> Result<()> {
    if let (Some(config), Some(kernel)) = (config.release, kernel.release())
        && config != kernel
    {
        let [config, kernel] = [config, kernel].map(|(major, minor)| format!("{major}.{minor}"));
        bail!("the configuration is of Linux {config}, the kernel is {kernel}: name its own");
    }
    if let Some(pages) = config.page_bytes()
        && kernel.page_bytes != 0
        && pages != kernel.page_bytes
    {
        bail!(
            "the configuration is of a kernel with {} KiB pages, this one has {}: name its own",
            pages >> 10,
            kernel.page_bytes >> 10
        );
    }
    Ok(())
}

fn exit_code(judgement: &Judgement) -> ExitCode {
    ExitCode::from(match judgement.is_usable {
        Some(true) => 0,
        Some(false) => 1,
        None => 2,
    })
}
