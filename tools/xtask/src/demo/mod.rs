//! `cargo xtask demo`: a stock Debian kernel does its DMA through virtual 4K DARTs, and every byte is checked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use oche::pack::{self, Guest};
use oche::progress::{Progress, Step};
use oche::{el2, workspace};

use crate::demo::disks::{Disks, Sizes};
use crate::demo::judge::judge;
use crate::demo::server::Server;
use crate::demo::summary::Summary;
use crate::demo::watch::{Plan, watch};
use crate::environment;
use crate::guest::initramfs::{DEVICE_MODULES, Initramfs};
use crate::guest::kernel::{self, GuestKernel, KernelChoice};
use crate::guest::module;
use crate::guest::userland::Userland;
use crate::qemu::{Machine, Serial};

pub mod devices;
pub mod disks;
mod judge;
pub mod kernel_log;
mod m1;
pub mod server;
pub mod story;
pub mod summary;
mod watch;

/// The guest's script, behind what every init script begins with.
pub(crate) const SCRIPT: &str = include_str!("init.sh");

/// What the demo runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Board {
    /// QEMU's virt machine: an SMMUv3 for the DARTs, real drivers and devices.
    QemuVirt,
    /// An M1 played by this process around QEMU's CPUs: strict DARTs, UART, framebuffer, the way m1n1 enters.
    M1Sim,
}

/// Options of `cargo xtask demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The board: QEMU's virt machine with real devices, or a simulated M1 with the image that a Mac would get.
    #[arg(long, value_enum, default_value_t = Board::QemuVirt)]
    pub board: Board,
    /// Move less data; for tests.
    #[arg(long)]
    pub short: bool,
    /// Build Oche so that it misplaces pages. The digests must notice: the run is good if they do.
    #[arg(long, conflicts_with = "without_oche")]
    pub break_placement: bool,
    /// Build Oche with the trace compiled out: the same must happen, and nobody can tell what did.
    #[arg(long, conflicts_with_all = ["without_oche", "break_placement"])]
    pub without_trace: bool,
    /// Boot the same guest straight on QEMU, with no Oche and no DART: tells the guest's trouble from Oche's.
    #[arg(long)]
    pub without_oche: bool,
    /// How often to boot; every run must end well.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeat: u32,
    /// CPU model, as QEMU names it.
    #[arg(long, default_value = "cortex-a76")]
    pub cpu: String,
    /// Number of CPUs.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub cpus: u32,
    /// Memory of the machine in MiB, Oche's part included.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(768..=65536))]
    pub memory: u64,
    /// The suite of Debian that the kernel comes from, such as bookworm-backports.
    #[arg(long, default_value = "bookworm")]
    pub suite: String,
    /// The kernel's package.
    #[arg(long, default_value = "linux-image-arm64")]
    pub kernel_package: String,
    /// An option for Oche, NAME=VALUE, such as oche.pool=64M or oche.log=debug; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub option: Vec<String>,
    /// More words for the guest's command line; may be repeated.
    #[arg(long, value_name = "WORDS")]
    pub append: Vec<String>,
    /// Give up after so many seconds of one boot.
    #[arg(long, default_value_t = 420)]
    pub limit: u64,
    /// Where results go; target/demo, or target/demo-m1 for the simulated M1.
    #[arg(long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
    /// More arguments for QEMU, behind `--`.
    #[arg(last = true, value_name = "QEMU ARGUMENTS")]
    pub qemu: Vec<std::ffi::OsString>,
}

impl Options {
    /// The options that the command line gives when nothing is said.
    #[must_use]
    pub fn usual() -> Self {
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            options: Options,
        }
        <Alone as clap::Parser>::parse_from(["demo"]).options
    }

    /// Where results go.
    #[must_use]
    pub fn output(&self) -> PathBuf {
        let usual = match self.board {
            Board::QemuVirt => "demo",
            Board::M1Sim => "demo-m1",
        };
        self.output.clone().unwrap_or_else(|| workspace::target().join(usual))
    }
}

/// Carries out `cargo xtask demo`.
///
/// # Errors
///
/// Something needed cannot be had, or the run was not good: the error says what, and where the whole story lies.
pub fn main(options: &Options) -> Result<()> {
    if options.board == Board::M1Sim {
        return m1::main(options);
    }
    let progress = Progress::new(6 + options.repeat as usize);
    let prepared = prepare(options, &progress)?;
    let mut good = 0;
    for round in 1..=options.repeat {
        let title = if options.repeat == 1 {
            "The guest on Oche".to_owned()
        } else {
            format!("The guest on Oche, boot {round} of {}", options.repeat)
        };
        let summary = run_once(options, &prepared, &progress, &title)?;
        if options.break_placement {
            expect_damage(&summary)?;
        } else if summary.is_good {
            good += 1;
        } else {
            tell_problems(&summary, options);
            bail!("the run was not good: {} things are wrong", summary.problems.len());
        }
    }
    if options.repeat > 1 && !options.break_placement {
        println!("{good} boots of {} ended well", options.repeat);
    }
    Ok(())
}

/// What a boot needs, made once.
struct Prepared {
    kernel: GuestKernel,
    boot: PathBuf,
    initrd: Option<PathBuf>,
    disks: Disks,
    server: Server,
    sizes: Sizes,
    /// Two demos in one folder would write each other's disks.
    _lock: workspace::FolderLock,
}

fn prepare(options: &Options, progress: &Progress) -> Result<Prepared> {
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
    let choice = KernelChoice { suite: options.suite.clone(), package: options.kernel_package.clone() };
    let kernel = kernel::fetch(&choice, &step)?;
    kernel.verify()?;
    step.done(&format!("{} {}, byte for byte the package's", kernel.package, kernel.version));

    let step = progress.step("DART driver of the same kernel");
    let module = module::build(&kernel, &step)?;
    step.done(&format!("from {}, unmodified", module.source_package));

    let step = progress.step("Guest programs");
    let userland = Userland::fetch(&step)?;
    let mut initramfs = Initramfs::new(&userland)?;
    if !options.without_oche {
        initramfs.add_module_file(&module.path)?;
    }
    initramfs.add_modules(&kernel, DEVICE_MODULES)?;
    initramfs.add_modules(&kernel, &["virtio_rng"])?;
    initramfs.set_init(SCRIPT);
    let initrd = options.output().join("initrd.cpio");
    initramfs.write(&initrd)?;
    step.done(&format!("{} modules", initramfs.modules().len()));

    let step = progress.step("Disks, and a server for the guest");
    let sizes = if options.short { Sizes::SHORT } else { Sizes::FULL };
    let disks = Disks::make(&options.output().join("disks"), sizes)?;
    let server = Server::start(vec![("random", disks.served.clone()), ("part", disks.part.clone())])?;
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

fn guest(options: &Options, kernel: &GuestKernel, initrd: &Path) -> Result<Guest> {
    let mut for_oche = vec![("oche.iommu-map".to_owned(), devices::iommu_map())];
    for option in &options.option {
        for_oche.push(parse_option(option)?);
    }
    Ok(Guest { kernel: kernel.image.clone(), initrd: Some(initrd.to_owned()), options: for_oche })
}

/// Takes `oche.NAME=VALUE` apart.
pub(crate) fn parse_option(option: &str) -> Result<(String, String)> {
    let (name, value) = option.split_once('=').with_context(|| format!("{option} is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn run_once(options: &Options, prepared: &Prepared, progress: &Progress, title: &str) -> Result<Summary> {
    let machine = Machine {
        cpu: options.cpu.clone(),
        cpus: options.cpus,
        memory_mib: options.memory,
        kernel: prepared.boot.clone(),
        initrd: prepared.initrd.clone(),
        append: format!(
            "console=ttyAMA0 demo.port={} demo.nvme_mib={} {}",
            prepared.server.port(),
            prepared.sizes.nvme_file,
            options.append.join(" ")
        ),
        serial: Serial::Watched,
        arguments: [devices::arguments(&prepared.disks), options.qemu.clone()].concat(),
    };
    let plan = Plan {
        has_oche: !options.without_oche,
        has_trace: !options.without_trace,
        ends_with_script: options.break_placement,
        limit: Duration::from_secs(options.limit),
        console: options.output().join("console.log"),
        trace: options.output().join("trace.oche"),
    };
    let step = progress.step(title);
    let watched = watch(&machine, &plan, &step)?;
    let left = if options.break_placement {
        // An image that was torn in the middle of a write proves nothing.
        std::collections::BTreeMap::new()
    } else {
        prepared.disks.left_by_guest(&options.output())?
    };
    let summary = judge(&watched, &plan, prepared, &left);
    let json = serde_json::to_vec_pretty(&summary).context("the summary")?;
    workspace::write_whole(&options.output().join("summary.json"), &json)?;
    let verdict = format!("{}, {} problems", watched.ending, summary.problems.len());
    if summary.is_good || options.break_placement {
        step.done(&verdict);
    } else {
        step.line(&verdict);
        if !watched.ending.is_good() {
            step.line(&format!("the console's last lines:\n{}", watched.last_lines));
        }
        drop(step);
    }
    if plan.has_oche && !options.break_placement {
        println!("\n{}", summary.table());
    }
    Ok(summary)
}

fn tell_problems(summary: &Summary, options: &Options) {
    for problem in &summary.problems {
        eprintln!("  wrong: {problem}");
    }
    eprintln!("  the whole story: {}", options.output().join("console.log").display());
}

/// With misplaced pages the digests must fail; the same guest with right ones passes them.
fn expect_damage(summary: &Summary) -> Result<()> {
    if summary.kernel.release.is_empty() {
        bail!(
            "the guest did not even start, which says nothing about the digests: {}",
            summary.problems.join("; ")
        );
    }
    let noticed: Vec<&String> =
        summary.problems.iter().filter(|problem| problem.starts_with("digest of")).collect();
    if noticed.is_empty() {
        bail!("placement is broken on purpose, and no digest noticed");
    }
    println!(
        "placement is broken on purpose, and {} digests noticed, the first: {}",
        noticed.len(),
        noticed[0]
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Options, SCRIPT, expect_damage, parse_option};
    use crate::demo::story::STEPS;
    use crate::demo::summary::Summary;

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

    #[test]
    fn options_for_oche_are_taken_apart_at_the_first_equals_sign() {
        let option = parse_option("oche.bootargs=a=b").unwrap();
        assert_eq!(option, ("oche.bootargs".to_owned(), "a=b".to_owned()));
        assert!(parse_option("oche.pool").is_err());
    }

    #[test]
    fn a_broken_placement_counts_only_if_a_digest_noticed_it() {
        let mut summary = Summary::default();
        assert!(expect_damage(&summary).is_err(), "the guest never started");
        summary.kernel.release = "6.1".into();
        summary.problems.push("step nvme failed".into());
        assert!(expect_damage(&summary).is_err(), "no digest noticed");
        summary.problems.push("digest of usb differs".into());
        assert!(expect_damage(&summary).is_ok());
    }

    #[test]
    fn nothing_said_means_the_whole_demo_once() {
        let options = Options::usual();
        assert!(!options.short && !options.break_placement && options.repeat == 1);
        assert!(options.output().ends_with("target/demo"));
    }
}
