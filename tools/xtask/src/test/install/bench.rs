//! What all systems of the tests share.

use std::path::PathBuf;

use anyhow::Result;
use oche::el2::{self, Toolchain};
use oche::progress::Step;
use oche::workspace;

use super::system::{Packages, ScratchSystem, oche_program};
use crate::test::boot_file::Sources;

/// Oche's ELF file and the device trees.
#[derive(Debug)]
pub(super) struct Workbench {
    pub(super) folder: PathBuf,
    /// Oche's ELF file.
    pub(super) elf: PathBuf,
    /// That of the probe.
    probe: PathBuf,
    trees: Vec<PathBuf>,
}

impl Workbench {
    pub(super) fn make(toolchain: Toolchain, sources: &Sources, step: &Step) -> Result<Self> {
        let folder = workspace::target().join("test").join("install");
        workspace::create_folder(&folder)?;
        let elf = el2::build_package(toolchain, "oche-m1", &[], step)?;
        let probe = el2::build_package(toolchain, "oche-m1-probe", &[], step)?;
        let trees = sources.kernel.device_trees(step)?;
        oche_program(step)?;
        Ok(Self { folder, elf, probe, trees })
    }

    pub(super) fn system(
        &self,
        name: &str,
        packages: &Packages,
        step: &Step,
    ) -> Result<ScratchSystem> {
        ScratchSystem::make(&self.folder.join(name), packages, &self.trees, step)
    }

    /// The arguments of an installation of the probe, besides the system.
    pub(super) fn probe_arguments(&self) -> [&str; 4] {
        ["install", "--probe", "--oche", self.probe.to_str().unwrap_or_default()]
    }

    /// The arguments of an installation, besides the system.
    pub(super) fn arguments<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let elf = self.elf.to_str().unwrap_or_default();
        [&["install", "--oche", elf], more].concat()
    }
}
