//! What the compared runs boot: the distribution's kernel, its benchmark, and one initrd for all.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use oche::el2::{self, Toolchain};
use oche::progress::Step;
use oche::workspace;

use super::cases::MapCase;
use crate::environment;
use crate::guest::initramfs::Initramfs;
use crate::guest::kernel::{self, GuestKernel, KernelChoice};
use crate::guest::module;
use crate::guest::program;
use crate::guest::userland::Userland;

/// The guest's script.
const SCRIPT: &str = include_str!("guest/init.sh");
/// The program that runs a case.
const PROGRAM: &str = include_str!("guest/map-cost.c");
/// The files beside the distribution's benchmark.
const FILES: [(&str, &str); 5] = [
    ("Kbuild", include_str!("guest/Kbuild")),
    ("short-runs.h", include_str!("guest/short-runs.h")),
    ("oche-map-cost.c", include_str!("guest/oche-map-cost.c")),
    ("oche-access-cost.c", include_str!("guest/oche-access-cost.c")),
    ("oche-flush-cost.c", include_str!("guest/oche-flush-cost.c")),
];
/// The distribution's benchmark, in its kernel's source.
const BENCHMARK: &str = "kernel/dma/map_benchmark.c";
/// The modules that are built.
const MODULES: [&str; 4] =
    ["map_benchmark.ko", "oche-map-cost.ko", "oche-access-cost.ko", "oche-flush-cost.ko"];

/// What the runs boot.
#[derive(Debug)]
pub(super) struct CompareGuest {
    /// The folder of all files of the measurement.
    pub(super) folder: PathBuf,
    /// Oche, built for EL2.
    pub(super) oche: PathBuf,
    /// The distribution's kernel.
    pub(super) kernel: GuestKernel,
    /// The initrd of every run.
    pub(super) initrd: PathBuf,
}

/// Fetches and builds it, and gives the toolchain that Oche was built with.
///
/// # Errors
///
/// Something cannot be had or built; the error names it.
pub(super) fn prepare(cases: &[MapCase], step: &Step) -> Result<(Toolchain, CompareGuest)> {
    let toolchain = environment::prepare(step)?;
    let folder = workspace::target().join("measure/compare");
    workspace::create_folder(&folder)?;
    let oche = el2::build(toolchain, &[], step)?;
    let kernel = kernel::fetch(&KernelChoice::measured(), step)?;
    let initrd = folder.join("initrd.cpio");
    pack_initrd(&kernel, cases, &folder, step)?.write(&initrd)?;
    Ok((toolchain, CompareGuest { folder, oche, kernel, initrd }))
}

fn pack_initrd(
    kernel: &GuestKernel,
    cases: &[MapCase],
    folder: &Path,
    step: &Step,
) -> Result<Initramfs> {
    let mut initramfs = Initramfs::new(&Userland::fetch(step)?)?;
    initramfs.add_module_file(&module::build(kernel, step)?.path)?;
    for path in build_modules(kernel, step)? {
        initramfs.add_module_file(&path)?;
    }
    initramfs.add_file_of("bin/map-cost", &program::compile(folder, "map-cost", PROGRAM)?)?;
    let lines: Vec<String> = cases.iter().map(|case| case.for_guest() + "\n").collect();
    initramfs.add_file("etc/cases", lines.concat().into_bytes(), 0o644);
    initramfs.set_init(SCRIPT);
    Ok(initramfs)
}

/// Builds the distribution's benchmark, unchanged, and the project's own modules.
fn build_modules(kernel: &GuestKernel, step: &Step) -> Result<Vec<PathBuf>> {
    let path = module::source_file(kernel, BENCHMARK, step)?;
    let benchmark =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut files = FILES.to_vec();
    files.push(("map_benchmark.c", &benchmark));
    let built = module::build_own(kernel, &files, MODULES[0], step)?;
    Ok(MODULES.iter().map(|name| built.with_file_name(name)).collect())
}
