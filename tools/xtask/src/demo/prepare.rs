//! Makes the parts of a boot of the demo: kernel, modules, programs, disks, and Oche.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use oche::pack::{self, GuestFiles};
use oche::progress::{Progress, Step};
use oche::{el2, workspace};

use crate::demo::devices;
use crate::demo::disks::{Disks, Sizes};
use crate::demo::options::{DemoOptions, parse_option};
use crate::demo::server::Server;
use crate::environment;
use crate::guest::initramfs::{DEVICE_MODULES, Initramfs};
use crate::guest::kernel::{self, GuestKernel, KernelChoice};
use crate::guest::module::{self, DartModule};
use crate::guest::userland::Userland;

/// The guest's script, behind what every init script begins with.
pub(crate) const SCRIPT: &str = include_str!("init.sh");

/// The parts of a boot, made once.
pub(super) struct Prepared {
    pub(super) kernel: GuestKernel,
    pub(super) boot: PathBuf,
    pub(super) initrd: Option<PathBuf>,
    pub(super) disks: Disks,
    pub(super) server: Server,
    pub(super) sizes: Sizes,
    /// Two demos in one folder would write each other's disks.
    _lock: workspace::FolderLock,
}

/// Fetches, builds and packs it.
///
/// # Errors
///
/// Something needed cannot be had.
pub(super) fn prepare(options: &DemoOptions, progress: &Progress) -> Result<Prepared> {
    let step = progress.step("Tools of this machine");
    step.detail("waiting until no other demo uses the same folder");
    let lock = workspace::FolderLock::wait(&options.output())?;
    let toolchain = environment::prepare(&step)?;
    step.done(&format!("Oche is built with {toolchain}, meanwhile"));

    // The compiler has work for one core while the network and the disk have work for the rest.
    let features: &[&str] = match (options.break_placement, options.without_trace) {
        (true, _) => &["break-placement"],
        (_, true) => &[el2::WITHOUT_TRACE],
        _ => &[],
    };
    let oche = (!options.without_oche)
        .then(|| std::thread::spawn(move || el2::build(toolchain, features, &Step::silent())));

    let step = progress.step("Guest kernel");
    let choice =
        KernelChoice { suite: options.suite.clone(), package: options.kernel_package.clone() };
    let kernel = kernel::fetch(&choice, &step)?;
    kernel.verify()?;
    step.done(&format!("{} {}, byte for byte the package's", kernel.package, kernel.version));

    let step = progress.step("DART driver of the same kernel");
    let module = module::build(&kernel, &step)?;
    step.done(&format!("from {}, unmodified", module.source_package));

    let initrd = pack_programs(options, &kernel, &module, progress)?;

    let step = progress.step("Disks, and a server for the guest");
    let sizes = if options.short { Sizes::SHORT } else { Sizes::FULL };
    let disks = Disks::make(&options.output().join("disks"), sizes)?;
    let server =
        Server::start(vec![("random", disks.served.clone()), ("part", disks.part.clone())])?;
    step.done(&format!("127.0.0.1:{}", server.port()));

    let step = progress.step("Oche for EL2");
    let Some(oche) = oche else {
        step.done("left out");
        return Ok(Prepared {
            boot: kernel.image.clone(),
            initrd: Some(initrd),
            kernel,
            disks,
            server,
            sizes,
            _lock: lock,
        });
    };
    step.detail("waiting for the compiler");
    let oche = oche.join().map_err(|_| anyhow!("the thread that compiles Oche panicked"))??;
    let boot = options.output().join("oche.img");
    let packed = pack::pack(&oche, &guest(options, &kernel, &initrd)?, &boot)?;
    step.done(&format!("{} MiB with kernel and initrd", packed.bytes >> 20));
    Ok(Prepared { boot, initrd: None, kernel, disks, server, sizes, _lock: lock })
}

/// Packs the guest's programs, modules and script into its initramfs.
fn pack_programs(
    options: &DemoOptions,
    kernel: &GuestKernel,
    module: &DartModule,
    progress: &Progress,
) -> Result<PathBuf> {
    let step = progress.step("Guest programs");
    let userland = Userland::fetch(&step)?;
    let mut initramfs = Initramfs::new(&userland)?;
    if !options.without_oche {
        initramfs.add_module_file(&module.path)?;
    }
    initramfs.add_modules(kernel, DEVICE_MODULES)?;
    initramfs.add_modules(kernel, &["virtio_rng"])?;
    initramfs.set_init(SCRIPT);
    let initrd = options.output().join("initrd.cpio");
    initramfs.write(&initrd)?;
    step.done(&format!("{} modules", initramfs.modules().len()));
    Ok(initrd)
}

fn guest(options: &DemoOptions, kernel: &GuestKernel, initrd: &Path) -> Result<GuestFiles> {
    let mut for_oche = vec![("oche.iommu-map".to_owned(), devices::iommu_map())];
    for option in &options.option {
        for_oche.push(parse_option(option)?);
    }
    Ok(GuestFiles {
        kernel: kernel.image.clone(),
        initrd: Some(initrd.to_owned()),
        options: for_oche,
    })
}

#[cfg(test)]
mod tests {
    use super::SCRIPT;
    use crate::demo::guest_report::STEPS;

    #[test]
    fn every_step_that_is_expected_is_one_of_the_scripts() {
        for step in STEPS {
            let called = SCRIPT.lines().any(|line| {
                let mut words = line.split_whitespace();
                matches!(words.next(), Some("start" | "phase")) && words.next() == Some(step)
            });
            assert!(called, "{step}");
        }
    }
}
