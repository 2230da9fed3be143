//! `cargo xtask measure memory`: how much memory Oche takes, and how many instructions boot takes.
//!
//! The sizes come from the functions with which boot plans its memory. Instructions are counted in
//! QEMU, where one takes a nanosecond and Oche logs the time from its entry to its guest's.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use oche::el2::{self, Toolchain};
use oche::pack::{self, GuestFiles};
use oche::progress::{Progress, Step};
use oche::workspace;

use crate::environment;
use crate::guest::kernel::{self, KernelChoice};
use crate::qemu::{QemuMachine, Running, Serial, Wish};

mod plan;
mod recorded;

use plan::Board;
use recorded::{Boot, Measured};

/// `cargo xtask measure memory`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct MemoryOptions {
    /// Print one JSON document on standard output instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Fail if Oche takes more than 300 MiB of 8 GiB, or a figure is more than 2 % worse than the
    /// recorded one.
    #[arg(long, conflicts_with_all = ["json", "record"])]
    pub check: bool,
    /// Record the figures, and put them into docs/measurements.md.
    #[arg(long)]
    pub record: bool,
}

/// What is computed: the boards of a Mac, and the demo's machine.
const MACHINES: [(Board, u64); 4] =
    [(Board::M1, 8), (Board::M1, 16), (Board::QemuVirt, 8), (Board::QemuVirt, 2)];
/// The RAM with which qemu-virt boots, in GiB.
const BOOTED_GIB: [u64; 2] = [8, 16];
/// How long a boot may take.
const LIMIT: Duration = Duration::from_secs(120);
/// A clock of 1 GHz, so that a tick is an instruction.
const CPU: &str = "cortex-a76,cntfrq=1000000000";

/// Measures, and prints the figures.
///
/// # Errors
///
/// Something needed cannot be had, a boot failed, or with `--check` a figure is too large.
pub fn main(options: &MemoryOptions) -> Result<()> {
    let progress = Progress::new(1);
    let step = progress.step("Memory, and instructions of boot");
    let measured = measure(&step)?;
    if options.check {
        step.done(&measured.check(&recorded::read()?)?);
        return Ok(());
    }
    step.done("");
    if options.record {
        recorded::write(&measured)?;
    }
    if options.json {
        print!("{}", measured.json()?);
    } else {
        println!("\n{}\n{}", measured.memory_table(), measured.boot_table());
    }
    Ok(())
}

/// Measures and compares with the recorded figures, in the step of another command.
///
/// # Errors
///
/// As [`main`].
pub(crate) fn check_recorded(step: &Step) -> Result<String> {
    measure(step)?.check(&recorded::read()?)
}

fn measure(step: &Step) -> Result<Measured> {
    let toolchain = environment::prepare(step)?;
    let memory = MACHINES.map(|(board, gib)| {
        let oche = build(board, toolchain, step)?;
        plan::compute(board, gib, image_bytes(&oche)?)
    });
    let memory = memory.into_iter().collect::<Result<Vec<_>>>()?;
    let oche = build(Board::QemuVirt, toolchain, step)?;
    let boots = BOOTED_GIB.map(|gib| boot(&oche, gib, step));
    Ok(Measured { memory, boots: boots.into_iter().collect::<Result<_>>()? })
}

fn build(board: Board, toolchain: Toolchain, step: &Step) -> Result<PathBuf> {
    el2::build_package(toolchain, board.package(), &[], step)
}

/// The bytes of Oche's image in memory, with its BSS and stacks.
fn image_bytes(oche: &Path) -> Result<u64> {
    let elf = fs::read(oche).with_context(|| format!("cannot read {}", oche.display()))?;
    Ok(pack::flatten(&elf)?.len() as u64)
}

/// Boots Debian's kernel on qemu-virt with `gib` GiB, and counts until Oche enters it.
fn boot(oche: &Path, gib: u64, step: &Step) -> Result<Boot> {
    step.detail(&format!("booting with {gib} GiB"));
    let folder = workspace::target().join("measure/memory");
    workspace::create_folder(&folder)?;
    let kernel = kernel::fetch(&KernelChoice::measured(), step)?.image;
    let kernel_bytes = fs::metadata(&kernel)?.len();
    let packed = folder.join("oche.img");
    pack::pack(oche, &GuestFiles { kernel, initrd: None, options: Vec::new() }, &packed)?;
    let machine = QemuMachine {
        cpu: CPU.into(),
        cpus: 1,
        memory_mib: gib << 10,
        kernel: packed,
        initrd: None,
        append: String::new(),
        serial: Serial::Watched,
        arguments: ["-icount", "shift=0,sleep=off"].map(OsString::from).to_vec(),
    };
    let mut running = Running::start(&machine, &folder.join("console.log"))?;
    let (mut instructions, mut pool) = (None, None);
    running.watch(LIMIT, |_, line| {
        pool = pool.or_else(|| pool_bytes(&line.text));
        instructions = boot_nanoseconds(&line.text);
        Ok(if instructions.is_some() { Wish::End } else { Wish::GoOn })
    })?;
    let planned = plan::compute(Board::QemuVirt, gib, image_bytes(oche)?)?.part("pool");
    ensure!(pool == planned, "Oche's pool has {pool:?} bytes, {planned:?} were computed");
    let Some(instructions) = instructions else {
        bail!("Oche does not enter its guest; see {}", folder.join("console.log").display())
    };
    Ok(Boot { gib, kernel_mib: kernel_bytes.div_ceil(1 << 20), instructions })
}

/// The nanoseconds in `oche: boot took N ns from the entry on`.
fn boot_nanoseconds(line: &str) -> Option<u64> {
    line.split_once("oche: boot took ")?.1.split_once(" ns")?.0.parse().ok()
}

/// The bytes of the pool in `oche: image ..., trace ..., pool 0x...`.
fn pool_bytes(line: &str) -> Option<u64> {
    let (start, end) = line.split_once(", pool 0x")?.1.split_once("..0x")?;
    let number = |text: &str| u64::from_str_radix(text.trim(), 16).ok();
    number(end)?.checked_sub(number(start)?)
}

#[cfg(test)]
mod tests {
    use super::{boot_nanoseconds, pool_bytes};

    #[test]
    fn oches_report_of_its_boot_is_read() {
        let line = "oche: boot took 123456 ns from the entry on";
        assert_eq!(boot_nanoseconds(line), Some(123_456));
        assert_eq!(boot_nanoseconds("oche: boot took long"), None);
        let line =
            "oche: image 0x40200000..0x403f0000, trace 0x0..0x1, pool 0xa0000000..0xc0000000";
        assert_eq!(pool_bytes(line), Some(0x2000_0000));
        assert_eq!(pool_bytes("oche: heap 0x0..0x1"), None);
    }
}
