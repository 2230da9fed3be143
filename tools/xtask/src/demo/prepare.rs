//! Makes the parts of the demo's boots: kernel, modules, programs, and Oche.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use oche::pack;
use oche::progress::{Progress, Step};
use oche::{el2, workspace};

use crate::demo::guest::{self, GuestMachine};
use crate::demo::options::{DemoOptions, parse_option};
use crate::environment;
use crate::guest::kernel::{self, GuestKernel};
use crate::guest::module::{self, DartModule};
use crate::next_command::build_oche;

/// The parts of the boots, made once.
pub(super) struct Prepared {
    pub(super) kernel: GuestKernel,
    initrd: PathBuf,
    /// The program that reads traces.
    pub(super) oche: PathBuf,
    /// Oche with kernel and initrd, unless it is left out.
    packed: Option<PathBuf>,
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
    let kernel = kernel::fetch(&options.kernel.choice(), &step)?;
    kernel.verify()?;
    step.done(&format!("{} {}, byte for byte the package's", kernel.package, kernel.version));

    let step = progress.step("DART driver of the same kernel");
    let module = module::build(&kernel, &step)?;
    step.done(&format!("from {}, unmodified", module.source_package));

    let initrd = pack_programs(options, &kernel, &module, progress)?;

    let step = progress.step("Oche for EL2, and its program for traces");
    let program = build_oche(&step)?;
    let mut packed = None;
    if let Some(oche) = oche {
        step.detail("waiting for the compiler");
        let oche = oche.join().map_err(|_| anyhow!("the thread that compiles Oche panicked"))??;
        let for_oche: Vec<_> =
            options.option.iter().map(|option| parse_option(option)).collect::<Result<_>>()?;
        let image = options.output().join("oche.img");
        let files = guest::files(&kernel.image, &initrd, &for_oche);
        let bytes = pack::pack(&oche, &files, &image)?.bytes;
        step.done(&format!("{} MiB with kernel and initrd", bytes >> 20));
        packed = Some(image);
    } else {
        step.done("left out");
    }
    Ok(Prepared { kernel, initrd, oche: program, packed, _lock: lock })
}

/// Packs the guest's programs, modules and script into its initramfs.
fn pack_programs(
    options: &DemoOptions,
    kernel: &GuestKernel,
    module: &DartModule,
    progress: &Progress,
) -> Result<PathBuf> {
    let step = progress.step("Guest programs");
    let initramfs = guest::initramfs(kernel, module, &options.output(), &step)?;
    let initrd = options.output().join("initrd.cpio");
    initramfs.write(&initrd)?;
    step.done(&format!("{} modules", initramfs.modules().len()));
    Ok(initrd)
}

impl Prepared {
    /// The machine of the demo.
    pub(super) fn machine(&self, options: &DemoOptions) -> GuestMachine {
        match &self.packed {
            Some(packed) => {
                GuestMachine { boot: packed.clone(), initrd: None, ..self.native_machine(options) }
            }
            None => self.native_machine(options),
        }
    }

    /// The same machine without Oche.
    pub(super) fn native_machine(&self, options: &DemoOptions) -> GuestMachine {
        GuestMachine {
            cpu: options.cpu.clone(),
            cpus: options.cpus,
            memory: options.memory,
            boot: self.kernel.image.clone(),
            initrd: Some(self.initrd.clone()),
            append: options.append.join(" "),
            qemu: options.qemu.clone(),
        }
    }
}
