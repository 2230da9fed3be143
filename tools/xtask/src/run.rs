//! `cargo xtask run`: a kernel, initrd and devices of the user's own on Oche, with a shell on the
//! guest's console.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use oche::pack::kernel_image::KernelImage;
use oche::pack::{self, GuestFiles};
use oche::progress::Progress;
use oche::{el2, workspace};

use crate::demo::parse_option;
use crate::environment;
use crate::guest::initramfs::{INIT_SHELL, Initramfs};
use crate::guest::kernel::{self, KernelOptions};
use crate::guest::module;
use crate::guest::userland::Userland;
use crate::next_command::{build_oche, for_shell, next_commands};
use crate::qemu::{QemuMachine, Running, Serial, Wish};

/// Options of `cargo xtask run`.
#[derive(Clone, Debug, clap::Args)]
pub struct RunOptions {
    /// The guest's kernel, an uncompressed or gzip-compressed arm64 Image with 4 or 16 KiB pages.
    /// Without one: Debian's own, with its DART driver as a module.
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["kernel_series", "suite", "kernel_package"])]
    pub kernel: Option<PathBuf>,
    /// The kernel, unless a file is named.
    #[command(flatten)]
    pub debian_kernel: KernelOptions,
    /// The guest's initrd. Without one: a busybox shell.
    #[arg(long, value_name = "CPIO", conflicts_with = "module")]
    pub initrd: Option<PathBuf>,
    /// More words for the guest's command line; may be repeated.
    #[arg(long, value_name = "WORDS")]
    pub append: Vec<String>,
    /// A module to load before the shell starts; may be repeated, in order.
    #[arg(long, value_name = "KO")]
    pub module: Vec<PathBuf>,
    /// Memory of the machine in MiB, Oche's part included.
    #[arg(long, default_value_t = 2048)]
    pub memory: u64,
    /// Number of CPUs.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub cpus: u32,
    /// CPU model, as QEMU names it.
    #[arg(long, default_value = "cortex-a76")]
    pub cpu: String,
    /// An option for Oche, NAME=VALUE, such as oche.iommu-map=0x08:0:1; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub option: Vec<String>,
    /// End the run after so many seconds; 0 means never.
    #[arg(long, default_value_t = 0)]
    pub limit: u64,
    /// Keep the trace in this file; without it, in target/run/trace.oche.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Keep no trace: for runs of days.
    #[arg(long, conflicts_with = "trace")]
    pub without_trace: bool,
    /// Arguments for QEMU, behind `--`: devices, disks, networks.
    #[arg(last = true, value_name = "QEMU ARGUMENTS")]
    pub qemu: Vec<OsString>,
}

/// Carries out `cargo xtask run`.
///
/// # Errors
///
/// An input cannot be used, something needed cannot be had, or the run ended in another way than by
/// power-off.
pub fn main(options: &RunOptions) -> Result<()> {
    check_inputs(options)?;
    let prepared = prepare(options)?;
    if let Some(trace) = options.trace() {
        eprintln!(
            "Recording to {}. To watch it meanwhile, in another terminal:\n  {} trace live {}",
            for_shell(&trace),
            for_shell(&prepared.oche),
            for_shell(&workspace::target().join("run").join("guest.ram"))
        );
    }
    if std::io::stdin().is_terminal() {
        eprintln!("The guest's console follows. Leave the shell to power off; Ctrl-A x ends QEMU.");
    }
    start(options, &prepared)
}

impl RunOptions {
    /// The file for the trace, if one is to be kept.
    fn trace(&self) -> Option<PathBuf> {
        let usual = || workspace::target().join("run").join("trace.oche");
        (!self.without_trace).then(|| self.trace.clone().unwrap_or_else(usual))
    }
}

/// What a run needs.
struct Prepared {
    machine: QemuMachine,
    /// The program that reads traces.
    oche: PathBuf,
}

/// Refuses wrong inputs before anything is built.
fn check_inputs(options: &RunOptions) -> Result<()> {
    if let Some(kernel) = &options.kernel {
        KernelImage::read(kernel)?;
    }
    for file in options.initrd.iter().chain(&options.module) {
        std::fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    for option in &options.option {
        parse_option(option)?;
    }
    if options.memory == 0 {
        bail!("a machine needs memory: --memory takes MiB, such as 2048");
    }
    Ok(())
}

fn prepare(options: &RunOptions) -> Result<Prepared> {
    let progress = Progress::new(3);
    let step = progress.step("Tools of this machine");
    let toolchain = environment::prepare(&step)?;
    step.done(&format!("Oche is built with {toolchain}"));

    let step = progress.step("Guest");
    let folder = workspace::target().join("run");
    workspace::create_folder(&folder)?;
    let (kernel, stock) = match &options.kernel {
        Some(kernel) => (kernel.clone(), None),
        None => {
            let stock = kernel::fetch(&options.debian_kernel.choice(), &step)?;
            (stock.image.clone(), Some(stock))
        }
    };
    let initrd = match &options.initrd {
        Some(initrd) => initrd.clone(),
        None => {
            let mut initramfs = Initramfs::new(&Userland::fetch(&step)?)?;
            if let Some(stock) = &stock {
                initramfs.add_module_file(&module::build(stock, &step)?.path)?;
                initramfs.add_modules(stock, crate::guest::initramfs::DEVICE_MODULES)?;
            }
            for module in &options.module {
                initramfs.add_module_file(module)?;
            }
            initramfs.set_init(&shell_script(!initramfs.modules().is_empty()));
            let path = folder.join("initrd.cpio");
            initramfs.write(&path)?;
            path
        }
    };
    step.done(&kernel.display().to_string());

    let step = progress.step("Oche for EL2");
    let oche = el2::build(toolchain, &[], &step)?;
    let for_oche =
        options.option.iter().map(|option| parse_option(option)).collect::<Result<_>>()?;
    let boot = folder.join("oche.img");
    let packed =
        pack::pack(&oche, &GuestFiles { kernel, initrd: Some(initrd), options: for_oche }, &boot)?;
    let program = build_oche(&step)?;
    step.done(&format!("{} MiB with kernel and initrd", packed.bytes >> 20));
    let append = ["console=ttyAMA0".to_owned()].into_iter().chain(options.append.iter().cloned());
    let machine = QemuMachine {
        cpu: options.cpu.clone(),
        cpus: options.cpus,
        memory_mib: options.memory,
        kernel: boot,
        initrd: None,
        append: append.collect::<Vec<_>>().join(" "),
        serial: Serial::Terminal,
        arguments: options.qemu.clone(),
    };
    Ok(Prepared { machine, oche: program })
}

/// The shell's init script; without modules there is no list to load them from.
fn shell_script(has_modules: bool) -> String {
    if has_modules { INIT_SHELL.to_owned() } else { INIT_SHELL.replacen("load_modules\n", "", 1) }
}

fn start(options: &RunOptions, prepared: &Prepared) -> Result<()> {
    // Ten years are for ever.
    let limit =
        Duration::from_secs(if options.limit == 0 { 10 * 365 * 86_400 } else { options.limit });
    let console = workspace::target().join("run").join("console.log");
    let mut running = Running::start(&prepared.machine, &console)?;
    let trace = options.trace();
    let recorder = match &trace {
        Some(path) => Some(oche::trace::FileRecorder::start(&running.memory().open_path(), path)?),
        None => None,
    };
    let ending = running.watch(limit, |_, _| Ok(Wish::GoOn))?;
    if let (Some(recorder), Some(path)) = (recorder, &trace) {
        let recording = recorder.finish()?;
        let (records, lost) = (recording.records, recording.lost);
        eprintln!("{}: {records} events, {lost} dropped", for_shell(path));
        eprintln!("{}", next_commands(&prepared.oche, path));
    }
    if !ending.is_good() {
        bail!("{ending} (the console is kept in {})", display(&console));
    }
    Ok(())
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::shell_script;

    #[test]
    fn without_modules_the_shell_loads_none() {
        assert!(shell_script(true).contains("load_modules"));
        assert!(!shell_script(false).contains("load_modules"));
        assert!(shell_script(false).contains("sh"));
    }
}
