//! One boot that measures all cases, and what its console reports.
//!
//! One instruction takes one nanosecond of the machine's time, and nothing else passes time: so the
//! kernel's own nanoseconds are instructions, and two runs give the same figures. Oche's counters
//! are read in a run of their own, since QEMU passes time where it stops.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use oche::pack::{self, GuestFiles};
use oche::progress::Step;
use oche::trace;

use super::cases::MapCase;
use super::guest::CompareGuest;
use crate::measure::profile::counts::{Counts, InstructionCounter};
use crate::qemu::{QemuMachine, Running, Serial, Wish};

/// How long a boot with all cases may take; half a minute, mostly.
const LIMIT: Duration = Duration::from_secs(300);
/// How long the guest may take to ring its bell.
const PATIENCE: Duration = Duration::from_secs(60);
/// Memory of the machine: with less, Oche has no room for the granules of 512 leaf tables.
const MEMORY_MIB: u64 = 2048;
/// Both kernels map and unmap at once, never later and never past the IOMMU.
const COMMAND_LINE: &str = "console=ttyAMA0 iommu.strict=1 iommu.passthrough=0";
/// A clock of 1 GHz: a tick is an instruction.
const CPU: &str = "cortex-a76,cntfrq=1000000000";
/// The rest of what makes runs repeat, and the two devices: the one that is mapped for, and the
/// bell, which stops the machine.
const ARGUMENTS: [&str; 16] = [
    "-icount",
    "shift=0,sleep=off",
    "-M",
    "dtb-randomness=off",
    "-seed",
    "1",
    "-rtc",
    "base=2026-01-01T00:00:00,clock=vm",
    "-action",
    "panic=pause",
    "-device",
    "edu,addr=8,dma_mask=0xffffffff",
    "-device",
    "pvpanic-pci,addr=9",
    "-global",
    "virtio-mmio.force-legacy=false",
];

/// What the guest's kernel runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setup {
    /// QEMU's SMMUv3, with 4 KiB pages.
    Native,
    /// Oche, as by default.
    Oche,
    /// Oche that does not record who called for maps and unmaps.
    WithoutCallers,
    /// Oche with `oche.trace=0`.
    Untraced,
}

impl Setup {
    /// All of them, in the order in which they run.
    pub(super) const ALL: [Self; 4] =
        [Self::Native, Self::Oche, Self::WithoutCallers, Self::Untraced];

    /// What it is, for people.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Native => "natively on an SMMUv3 with 4 KiB pages",
            Self::Oche => "on Oche",
            Self::WithoutCallers => "on Oche that records no callers",
            Self::Untraced => "on Oche without its trace",
        }
    }

    /// The name in the figures and of the log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Oche => "oche",
            Self::WithoutCallers => "without_callers",
            Self::Untraced => "untraced",
        }
    }

    fn options(self) -> Vec<(String, String)> {
        let option = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        match self {
            Self::Native | Self::Oche => Vec::new(),
            Self::WithoutCallers => option("oche.trace-orders", "callers off"),
            Self::Untraced => option("oche.trace", "0"),
        }
    }
}

/// What a map and its unmap cost, in instructions and events an operation: a map and its unmap.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Figures {
    /// Instructions of a map, at all levels.
    pub(super) map: f64,
    /// Of an unmap.
    pub(super) unmap: f64,
    /// Instructions at EL2 an operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) el2: Option<f64>,
    /// Exits from the guest an operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) traps: Option<f64>,
    /// Of these, accesses to pages with copies and to write-protected tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trapped_accesses: Option<f64>,
    /// TLB invalidations that reach all CPUs, by Oche, an operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tlb_broadcasts: Option<f64>,
}

/// What a setup costs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Measured {
    /// The figures of each case, in the cases' order.
    pub(super) cases: Vec<Figures>,
    /// The instructions of an access to a trapped page, by name.
    pub(super) accesses: Vec<(String, f64)>,
    /// The instructions of a flush beside other tables, by name.
    pub(super) flushes: Vec<(String, f64)>,
}

/// Oche's counters of a case, over all its operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counters {
    traps: u64,
    trapped_accesses: u64,
    tlb_broadcasts: u64,
    pages_mapped: u64,
    refused: u64,
}

/// What was executed at EL2 in a case.
#[derive(Debug)]
pub(crate) struct CountedCase {
    /// The case's name.
    pub(crate) case: String,
    /// How often each instruction was executed.
    pub(crate) counts: Counts,
    /// Maps, each with its unmap.
    pub(crate) operations: f64,
}

/// What a boot is for.
#[derive(Clone, Copy, Debug)]
enum Purpose<'a> {
    /// Instructions, without a stop.
    Cost,
    /// Oche's counters: QEMU stops before and after each case.
    Counters,
    /// These, and how often each instruction is executed.
    Profile(&'a InstructionCounter),
}

/// What a case's program reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    /// Instructions of a map and of an unmap.
    map: u64,
    unmap: u64,
    /// Instructions at EL2 of all turns.
    hypervisor: u64,
    /// Reads of the clock: four a turn.
    clock_reads: u64,
}

/// Measures `setup`.
///
/// # Errors
///
/// A boot or a case failed, or took too long; the error names the log.
pub(super) fn measure(
    prepared: &CompareGuest,
    setup: Setup,
    cases: &[MapCase],
    step: &Step,
) -> Result<Measured> {
    let Runs { cases: runs, accesses, flushes } =
        boot(prepared, setup, Purpose::Cost, cases, step)?;
    let mut figures: Vec<Figures> = runs.into_iter().map(|(figures, _)| figures).collect();
    if setup == Setup::Oche {
        step.detail("once more, for Oche's counters");
        let counted = boot(prepared, setup, Purpose::Counters, cases, step)?;
        for (figures, (counted, _)) in figures.iter_mut().zip(counted.cases) {
            figures.traps = counted.traps;
            figures.trapped_accesses = counted.trapped_accesses;
            figures.tlb_broadcasts = counted.tlb_broadcasts;
        }
    }
    Ok(Measured { cases: figures, accesses, flushes })
}

/// Counts with `counter` what Oche executes at EL2 in each case.
///
/// # Errors
///
/// As [`measure`], or the guest counted other numbers of instructions.
pub(super) fn profile(
    prepared: &CompareGuest,
    counter: &InstructionCounter,
    cases: &[MapCase],
    step: &Step,
) -> Result<Vec<CountedCase>> {
    let runs = boot(prepared, Setup::Oche, Purpose::Profile(counter), cases, step)?;
    Ok(runs.cases.into_iter().filter_map(|(_, counted)| counted).collect())
}

/// What a boot measured.
#[derive(Debug, Default)]
struct Runs {
    /// The figures of each case, and with [`Purpose::Profile`] what was counted.
    cases: Vec<(Figures, Option<CountedCase>)>,
    /// The cost of each access.
    accesses: Vec<(String, f64)>,
    /// The cost of each flush.
    flushes: Vec<(String, f64)>,
}

fn boot(
    prepared: &CompareGuest,
    setup: Setup,
    purpose: Purpose,
    cases: &[MapCase],
    step: &Step,
) -> Result<Runs> {
    let suffix = match purpose {
        Purpose::Cost => "",
        Purpose::Counters => "-counters",
        Purpose::Profile(_) => "-profile",
    };
    let log = prepared.folder.join(format!("{}{suffix}.log", setup.name()));
    let machine = machine(prepared, setup, purpose)?;
    watch(&machine, purpose, cases, &log, step)
        .with_context(|| format!("{}; the console is kept in {}", setup.title(), log.display()))
}

fn watch(
    machine: &QemuMachine,
    purpose: Purpose,
    cases: &[MapCase],
    log: &Path,
    step: &Step,
) -> Result<Runs> {
    let mut running = Running::start(machine, log)?;
    let ram = running.memory().open_path();
    let (mut runs, mut counted, mut has_ended) = (Runs::default(), None, false);
    let ending = running.watch(LIMIT, |running, line| {
        let Some(report) = line.text.strip_prefix("compare: ") else { return Ok(Wish::GoOn) };
        match report.split_once(' ').unwrap_or((report, "")) {
            ("run", _) => {
                step.detail(
                    &cases.get(runs.cases.len()).map(MapCase::to_string).unwrap_or_default(),
                );
                counted = match purpose {
                    Purpose::Cost => None,
                    Purpose::Counters => Some(count_between_rings(running, &ram, None)?),
                    Purpose::Profile(counter) => {
                        Some(count_between_rings(running, &ram, Some(counter))?)
                    }
                };
            }
            ("cost", cost) => {
                let case = cases.get(runs.cases.len());
                let case = case.context("the guest ran more cases than asked")?;
                let run = judge(cost, case, counted.take()).with_context(|| format!("cost {cost}"));
                runs.cases.push(run?);
            }
            ("access", cost) => runs.accesses.push(parse_named(cost)?),
            ("flush", cost) => runs.flushes.push(parse_named(cost)?),
            ("end", _) => has_ended = true,
            _ => bail!("in the guest: {report}"),
        }
        Ok(Wish::GoOn)
    })?;
    ensure!(ending.is_good() && has_ended, "{ending}, before its end");
    let count = runs.cases.len();
    ensure!(count == cases.len(), "{count} of {} cases ran", cases.len());
    Ok(runs)
}

fn machine(prepared: &CompareGuest, setup: Setup, purpose: Purpose) -> Result<QemuMachine> {
    let is_native = setup == Setup::Native;
    let kernel = if is_native {
        prepared.kernel.image.clone()
    } else {
        let guest = GuestFiles {
            kernel: prepared.kernel.image.clone(),
            initrd: Some(prepared.initrd.clone()),
            options: setup.options(),
        };
        let packed = prepared.folder.join("oche.img");
        pack::pack(&prepared.oche, &guest, &packed)?;
        packed
    };
    Ok(QemuMachine {
        cpu: CPU.into(),
        cpus: 1,
        memory_mib: MEMORY_MIB,
        kernel,
        initrd: is_native.then(|| prepared.initrd.clone()),
        append: match purpose {
            Purpose::Cost => COMMAND_LINE.into(),
            Purpose::Counters | Purpose::Profile(_) => format!("{COMMAND_LINE} compare.count"),
        },
        serial: Serial::Watched,
        arguments: match purpose {
            Purpose::Cost | Purpose::Counters => ARGUMENTS.map(OsString::from).to_vec(),
            Purpose::Profile(counter) => {
                [ARGUMENTS.map(OsString::from).to_vec(), counter.arguments()].concat()
            }
        },
    })
}

/// What was counted in a case: by Oche itself, and by QEMU.
type Counted = (Counters, Option<Counts>);

/// The guest rings before and after a case, and the machine stands still then: gives what was
/// counted between.
fn count_between_rings(
    running: &mut Running,
    ram: &Path,
    counter: Option<&InstructionCounter>,
) -> Result<Counted> {
    let (before, after) = (at_ring(running, ram, counter)?, at_ring(running, ram, counter)?);
    let counts = after.1.zip(before.1).map(|(after, before)| after.since(&before));
    let (before, after) = (before.0, after.0);
    let counters = Counters {
        traps: after.traps - before.traps,
        trapped_accesses: after.trapped_accesses - before.trapped_accesses,
        tlb_broadcasts: after.tlb_broadcasts - before.tlb_broadcasts,
        pages_mapped: after.pages_mapped - before.pages_mapped,
        refused: after.refused - before.refused,
    };
    Ok((counters, counts.transpose()?))
}

/// Waits until the machine has stopped, reads what was counted, and lets it go on.
fn at_ring(
    running: &mut Running,
    ram: &Path,
    counter: Option<&InstructionCounter>,
) -> Result<Counted> {
    let deadline = Instant::now() + PATIENCE;
    while running.monitor().0.is_running()? {
        ensure!(Instant::now() < deadline, "the guest does not ring");
        thread::sleep(Duration::from_millis(2));
    }
    let counters = sum(trace::read_statistics(ram)?)?;
    let counts = counter.map(InstructionCounter::read).transpose()?;
    running.monitor().0.resume()?;
    Ok((counters, counts))
}

fn sum(named: Vec<(String, u64)>) -> Result<Counters> {
    let named: BTreeMap<String, u64> = named.into_iter().collect();
    let one = |name: &str| {
        named.get(name).copied().with_context(|| format!("Oche has no counter {name}"))
    };
    let is_exit = |name: &str| name.starts_with("exits_") && !name.contains('[');
    Ok(Counters {
        traps: named.iter().filter(|(name, _)| is_exit(name)).map(|(_, value)| value).sum(),
        trapped_accesses: one("trapped_accesses")?,
        tlb_broadcasts: one("tlb_broadcasts")?,
        pages_mapped: one("maps")?,
        refused: one("refused")?,
    })
}

/// The figures of a case, and what was counted of it.
fn judge(
    cost: &str,
    case: &MapCase,
    counted: Option<Counted>,
) -> Result<(Figures, Option<CountedCase>)> {
    let cost = parse(cost, case)?;
    let (counters, counts) = counted.unzip();
    let figures = cost.figures(case, counters)?;
    let Some(counts) = counts.flatten() else { return Ok((figures, None)) };
    counts.check(cost.hypervisor)?;
    let case = case.to_string();
    Ok((figures, Some(CountedCase { case, counts, operations: cost.operations() })))
}

/// `reused 1 0 26400 41100 ...`: the case as the guest has it, and then the numbers of its program
/// and the reads of the clock.
fn parse(cost: &str, case: &MapCase) -> Result<Cost> {
    let numbers = cost.strip_prefix(&case.for_guest()).context("another case was expected")?;
    let numbers: Vec<u64> = numbers
        .split_whitespace()
        .map(|word| word.parse().context("not a number"))
        .collect::<Result<_>>()?;
    let [map, unmap, _, _, hypervisor, clock_reads] = *numbers else { bail!("not six numbers") };
    ensure!(clock_reads >= 4 && map > 0 && unmap > 0, "nothing was mapped");
    Ok(Cost { map, unmap, hypervisor, clock_reads })
}

/// `ldr from-device 2 copies 570`: the access or flush, and its instructions at EL2.
fn parse_named(cost: &str) -> Result<(String, f64)> {
    let wrong = || format!("cost {cost}");
    let (name, instructions) = cost.rsplit_once(' ').with_context(wrong)?;
    Ok((name.to_owned(), instructions.parse().with_context(wrong)?))
}

impl Cost {
    /// Maps, each with its unmap.
    fn operations(&self) -> f64 {
        self.clock_reads as f64 / 4.0
    }

    /// What each operation cost.
    ///
    /// # Errors
    ///
    /// Oche did not map the pages.
    fn figures(&self, case: &MapCase, counters: Option<Counters>) -> Result<Figures> {
        if let Some(Counters { pages_mapped, refused, .. }) = counters {
            // The guest learns of no refusal, and to refuse is cheap.
            let pages = self.clock_reads / 4 * case.pages();
            ensure!(
                pages_mapped == pages && refused == 0,
                "Oche mapped {pages_mapped} of {pages} pages, and refused {refused}"
            );
        }
        let each = |total: u64| to_hundredths(total as f64 / self.operations());
        Ok(Figures {
            map: self.map as f64,
            unmap: self.unmap as f64,
            el2: (self.hypervisor > 0).then(|| each(self.hypervisor)),
            traps: counters.map(|counters| each(counters.traps)),
            trapped_accesses: counters.map(|counters| each(counters.trapped_accesses)),
            tlb_broadcasts: counters.map(|counters| each(counters.tlb_broadcasts)),
        })
    }
}

fn to_hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests;
