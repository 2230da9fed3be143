//! `cargo xtask setup` and `cargo xtask build`: everything that a guest needs, made ready
//! beforehand.

use anyhow::Result;
use oche::el2;
use oche::progress::Progress;

use crate::environment;
use crate::guest::kernel::{self, KernelOptions};
use crate::guest::module;
use crate::guest::userland::Userland;
use crate::perfetto::{self, Perfetto};

/// Options of `cargo xtask setup`.
#[derive(Clone, Debug, clap::Args)]
pub struct SetupOptions {
    /// The kernel.
    #[command(flatten)]
    pub kernel: KernelOptions,
    /// Ask the archive for the newest kernel even if one is in the cache.
    #[arg(long)]
    pub refresh: bool,
}

/// Options of `cargo xtask build`.
#[derive(Clone, Debug, clap::Args)]
pub struct BuildOptions {
    /// Features of the board's crate, such as the test switch break-placement.
    #[arg(long, value_delimiter = ',')]
    pub features: Vec<String>,
}

/// Installs what is missing, and fetches the guest's kernel, driver and programs.
///
/// # Errors
///
/// The first thing that cannot be had; the error gives the remedy.
pub fn main(options: &SetupOptions) -> Result<()> {
    let progress = Progress::new(5);
    let step = progress.step("Tools of this machine");
    let toolchain = environment::prepare_all(&step)?;
    step.done(&format!("Oche is built with {toolchain}"));

    let step = progress.step("Perfetto's schema and trace processor");
    Perfetto::fetch(&step)?;
    step.done(&format!("{}, for tests", perfetto::VERSION));

    let choice = options.kernel.choice();
    let step = progress.step("Guest kernel");
    if options.refresh {
        kernel::refresh(&choice, &step)?;
    }
    let kernel = kernel::fetch(&choice, &step)?;
    step.done(&format!("{} {}, unmodified", kernel.package, kernel.version));

    let step = progress.step("DART driver of the same kernel");
    let module = module::build(&kernel, &step)?;
    step.done(&format!("from {}, unmodified", module.source_package));

    let step = progress.step("Guest programs");
    Userland::fetch(&step)?;
    step.done("busybox, mkfs.ext4, getconf");
    Ok(())
}

/// Builds Oche for EL2.
///
/// # Errors
///
/// It does not compile, or the toolchain cannot be had.
pub fn build(options: &BuildOptions) -> Result<()> {
    let progress = Progress::new(2);
    let step = progress.step("Tools of this machine");
    let toolchain = environment::prepare(&step)?;
    step.done(&toolchain.to_string());

    let step = progress.step("Oche for EL2");
    let features: Vec<_> = options.features.iter().map(String::as_str).collect();
    let image = el2::build(toolchain, &features, &step)?;
    step.done(&image.display().to_string());
    Ok(())
}
