//! `cargo xtask measure job`: what tracing adds to the demo's work, in instructions, counted by the
//! guest itself.
//!
//! The guest is a stock kernel with one CPU, and QEMU counts what it executes (`-icount`): every
//! instruction of EL0, EL1 and EL2 counts, idling does not. The guest's own performance counters
//! split them by level. The work is the demo's short form, one step after the other, so that chance
//! has little to mix; what is left of it the repetitions show.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use oche::pack::{self, GuestFiles};
use oche::progress::{Progress, Step};
use oche::{el2, workspace};

use crate::demo::devices;
use crate::demo::disks::{Disks, Sizes};
use crate::demo::guest_report::{self, GuestReport, ReportLine};
use crate::demo::server::Server;
use crate::guest::initramfs::{DEVICE_MODULES, Initramfs};
use crate::guest::kernel::{self, KernelChoice};
use crate::guest::module;
use crate::guest::userland::Userland;
use crate::measure::program;
use crate::qemu::{QemuMachine, Running, Serial, Wish};
use crate::{demo, environment};

/// The counting program's source.
const COUNTER: &str = include_str!("count.c");
/// The replacement of the last line of the demo's script.
const SCRIPT: &str = include_str!("job.sh");
/// The line that it replaces.
const DEMO_BEGINS: &str = "\nmain\n";
/// How long a boot may take: a minute or two, mostly.
const LIMIT: Duration = Duration::from_secs(600);
/// More than this, and tracing is in the way.
const MAX_PERCENT: f64 = 5.0;

/// Options of `cargo xtask measure job`.
#[derive(Clone, Debug, clap::Args)]
pub struct JobOptions {
    /// How often to boot with the trace and how often without.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// What is recorded with the trace on: orders of `oche trace filter` with `;` between them.
    /// Without: every event.
    #[arg(long, default_value = "")]
    pub orders: String,
}

/// Instructions by exception level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    user: u64,
    kernel: u64,
    hypervisor: u64,
}

impl Count {
    /// All that the guest waits for.
    fn all(&self) -> u64 {
        self.user + self.kernel + self.hypervisor
    }
}

/// The steps of a boot, each with what it took.
type Counts = Vec<(String, Count)>;

/// Measures, prints a line a step, and checks the bound.
///
/// # Errors
///
/// Something needed cannot be had, a boot or its work failed, or tracing costs more than it may.
pub fn main(options: &JobOptions) -> Result<()> {
    let progress = Progress::new(2 + 2 * options.rounds as usize);
    let step = progress.step("Oche and the guest");
    let prepared = prepare(&step)?;
    step.done(&prepared.folder.display().to_string());
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 1..=options.rounds {
        for (is_traced, counts) in [(false, &mut without), (true, &mut with)] {
            let name = if is_traced { "with every event recorded" } else { "with oche.trace=0" };
            let step = progress.step(&format!("{name}, boot {round} of {}", options.rounds));
            let counted = boot(&prepared, is_traced, &options.orders, &step)?;
            step.done(&format!("{:.1} million instructions", millions(total(&counted).all())));
            counts.push(counted);
        }
    }
    let step = progress.step("What the trace adds");
    let percent = compare(&without, &with, &step)?;
    step.done(&format!("{percent:.2} %"));
    if percent > MAX_PERCENT {
        bail!(
            "the trace adds {percent:.2} % instructions to the demo's work, more than {MAX_PERCENT} %"
        );
    }
    Ok(())
}

struct Prepared {
    folder: PathBuf,
    oche: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
    server: Server,
    disks: Disks,
}

fn prepare(step: &Step) -> Result<Prepared> {
    let toolchain = environment::prepare(step)?;
    let folder = workspace::target().join("measure");
    workspace::create_folder(&folder)?;
    let oche = el2::build(toolchain, &[], step)?;
    let kernel = kernel::fetch(&KernelChoice::stock(), step)?;
    let mut initramfs = Initramfs::new(&Userland::fetch(step)?)?;
    initramfs.add_module_file(&module::build(&kernel, step)?.path)?;
    initramfs.add_modules(&kernel, DEVICE_MODULES)?;
    initramfs.add_modules(&kernel, &["virtio_rng"])?;
    initramfs.add_file_of("bin/count", &program::compile(&folder, "count", COUNTER)?)?;
    let functions =
        demo::SCRIPT.strip_suffix(DEMO_BEGINS).context("the demo's script ends in another way")?;
    initramfs.set_init(&format!("{functions}\n{SCRIPT}"));
    let initrd = folder.join("initrd.cpio");
    initramfs.write(&initrd)?;
    let disks = Disks::make(&folder.join("disks"), Sizes::SHORT)?;
    let server =
        Server::start(vec![("random", disks.served.clone()), ("part", disks.part.clone())])?;
    Ok(Prepared { folder, oche, kernel: kernel.image, initrd, server, disks })
}

fn boot(prepared: &Prepared, is_traced: bool, orders: &str, step: &Step) -> Result<Counts> {
    let folder = &prepared.folder;
    let mut for_oche = vec![("oche.iommu-map".to_owned(), devices::iommu_map())];
    if !is_traced {
        for_oche.push(("oche.trace".to_owned(), "0".to_owned()));
    } else if !orders.is_empty() {
        for_oche.push(("oche.trace-orders".to_owned(), orders.to_owned()));
    }
    let packed = folder.join("oche.img");
    let guest = GuestFiles {
        kernel: prepared.kernel.clone(),
        initrd: Some(prepared.initrd.clone()),
        options: for_oche,
    };
    pack::pack(&prepared.oche, &guest, &packed)?;
    let machine = QemuMachine {
        cpu: "cortex-a76".into(),
        cpus: 1,
        memory_mib: 2048,
        kernel: packed,
        initrd: None,
        append: format!(
            "console=ttyAMA0 demo.port={} demo.nvme_mib={}",
            prepared.server.port(),
            Sizes::SHORT.nvme_file
        ),
        serial: Serial::Watched,
        arguments: [
            devices::arguments(&prepared.disks),
            // What the guest writes is forgotten: every boot finds the same disks.
            ["-snapshot", "-icount", "shift=0,sleep=on"].map(Into::into).to_vec(),
        ]
        .concat(),
    };
    let log = folder.join(if is_traced { "traced.log" } else { "untraced.log" });
    let mut running = Running::start(&machine, &log)?;
    let (mut report, mut counts) = (GuestReport::default(), Vec::new());
    let ending = running.watch(LIMIT, |_, line| {
        let Some(report_line) = guest_report::parse(&line.text) else { return Ok(Wish::GoOn) };
        if let ReportLine::Step { name, .. } = report_line {
            step.detail(name);
        }
        if let ReportLine::Fact("instructions", value) = report_line {
            counts.push(parse(value).with_context(|| format!("the guest counted {value}"))?);
        }
        report.take(&report_line);
        Ok(Wish::GoOn)
    })?;
    ensure!(ending.is_good() && report.is_complete, "{ending}; see {}", log.display());
    if let Some((name, text)) = report.failed.first() {
        bail!("step {name} failed: {text}; see {}", log.display());
    }
    Ok(counts)
}

/// `nvme 12 34 56`: the step, and what it took of user, kernel and hypervisor.
fn parse(value: &str) -> Option<(String, Count)> {
    let mut words = value.split(' ');
    let name = words.next()?.to_owned();
    let mut number = || words.next()?.parse().ok();
    let count = Count { user: number()?, kernel: number()?, hypervisor: number()? };
    (words.next().is_none() && count.all() != 0).then_some((name, count))
}

fn total(counts: &Counts) -> Count {
    counts.iter().fold(Count::default(), |sum, (_, count)| Count {
        user: sum.user + count.user,
        kernel: sum.kernel + count.kernel,
        hypervisor: sum.hypervisor + count.hypervisor,
    })
}

/// Prints a line a step, and gives what the trace adds to all of them, in percent.
fn compare(without: &[Counts], with: &[Counts], step: &Step) -> Result<f64> {
    let names: Vec<&String> =
        without.first().context("no boot")?.iter().map(|(name, _)| name).collect();
    let column = |boots: &[Counts], place: usize| -> Result<Vec<Count>> {
        boots
            .iter()
            .map(|boot| Ok(boot.get(place).context("a boot counted fewer steps")?.1))
            .collect()
    };
    let sums = |boots: &[Counts]| boots.iter().map(total).collect::<Vec<_>>();
    step.line(
        "millions:          EL0      EL1      EL2      all   spread |  traced EL2      all   spread |  added",
    );
    for (place, name) in names.into_iter().enumerate() {
        step.line(&row(name, &column(without, place)?, &column(with, place)?));
    }
    let (without, with) = (sums(without), sums(with));
    step.line(&row("all", &without, &with));
    Ok(added(&without, &with))
}

fn row(name: &str, without: &[Count], with: &[Count]) -> String {
    let mean = |counts: &[Count], of: fn(&Count) -> u64| mean_of(counts, of) / 1e6;
    format!(
        "{name:11} {:10.1} {:8.1} {:8.1} {:8.1} {:6.2} % | {:11.1} {:8.1} {:6.2} % | {:5.2} %",
        mean(without, |count| count.user),
        mean(without, |count| count.kernel),
        mean(without, |count| count.hypervisor),
        mean(without, Count::all),
        spread(without),
        mean(with, |count| count.hypervisor),
        mean(with, Count::all),
        spread(with),
        added(without, with),
    )
}

fn mean_of(counts: &[Count], of: fn(&Count) -> u64) -> f64 {
    counts.iter().map(|count| of(count) as f64).sum::<f64>() / counts.len().max(1) as f64
}

/// From the least to the most, in percent of the mean.
fn spread(counts: &[Count]) -> f64 {
    let all = || counts.iter().map(Count::all);
    let (least, most) = (all().min().unwrap_or(0), all().max().unwrap_or(0));
    100.0 * (most - least) as f64 / mean_of(counts, Count::all).max(1.0)
}

fn added(without: &[Count], with: &[Count]) -> f64 {
    100.0 * (mean_of(with, Count::all) / mean_of(without, Count::all).max(1.0) - 1.0)
}

fn millions(instructions: u64) -> f64 {
    instructions as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::{Count, DEMO_BEGINS, added, parse, spread};

    #[test]
    fn a_steps_counts_are_understood_and_anything_else_is_not() {
        let count = Count { user: 1, kernel: 20, hypervisor: 300 };
        assert_eq!(parse("usb 1 20 300"), Some(("usb".into(), count)));
        assert_eq!(count.all(), 321);
        for wrong in ["usb", "usb 1 2", "usb 1 2 3 4", "usb 1 x 3", "usb 0 0 0"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_added_cost_is_computed_from_the_means() {
        let counts = |all: [u64; 2]| all.map(|user| Count { user, ..Count::default() });
        let (without, with) = (counts([90, 110]), counts([103, 107]));
        assert!((added(&without, &with) - 5.0).abs() < 1e-9);
        assert!((spread(&without) - 20.0).abs() < 1e-9);
    }

    #[test]
    fn the_demos_script_begins_in_its_last_line() {
        assert!(crate::demo::SCRIPT.ends_with(DEMO_BEGINS));
    }
}
