//! Debian's U-Boot on the simulated board: from the packed image to its prompt, and on to a kernel.

mod history;

use std::fs;
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use oche::el2::Toolchain;
use oche::pack::GuestFiles;
use oche::progress::Step;
use oche::trace::{FileRecorder, TraceFile};
use oche::workspace;
use oche_m1_sim::dart::DartSetting;
use oche_m1_sim::memory::BoardMemory;
use oche_m1_sim::{BoardOutcome, DARTS, Mac, TypedText, screen};
use oche_types::dart::registers::{TCR, TTBR};
use oche_types::range::PhysRange;

use history::{History, Way};

use crate::guest::kernel::KernelChoice;
use crate::m1::bench::{self, Bench};
use crate::m1::{linux, u_boot};

/// U-Boot's prompt.
const PROMPT: &str = "=> ";
/// Where the loader has put the kernel and its initrd: a person would load them from a disk.
const KERNEL: u64 = 0x8_2000_0000;
const INITRD: u64 = 0x8_3000_0000;
/// The DARTs of the USB controller, by their places in [`DARTS`], and how U-Boot has each pass DMA.
const DRIVEN: [(usize, Way); 2] = [(2, Way::Bypass), (3, Way::Tables)];
/// Streams of a DART.
const STREAMS: u64 = 16;
/// Pixels with a colour, at least: U-Boot's logo has 25 600, and Oche writes in white here.
const LEAST_COLOURED: usize = 10_000;

/// U-Boot to its prompt, its DARTs driven and given up, and the kernel that it boots to user space.
///
/// # Errors
///
/// The first thing that went wrong.
pub(crate) fn run(toolchain: Toolchain, choice: &KernelChoice, step: &Step) -> Result<String> {
    let folder = workspace::target().join("test").join("m1-u-boot");
    let u_boot = u_boot::fetch(step)?;
    let (files, kernel) = linux::prepare(choice, &folder, step)?;
    let options = vec![("oche.pool".to_owned(), "64M".to_owned())];
    let guest = GuestFiles { kernel: u_boot.binary, initrd: None, options };
    let bench = Bench::with_guest(toolchain, &[], &guest, &folder, step)?;
    step.detail(&format!("U-Boot {}, then {}", u_boot.version, kernel.release));
    let mac = mac(&files)?;
    let board = bench.board(&mac)?;
    let memory = Rc::clone(board.memory());
    let trace = folder.join("trace.oche");
    let recorder = FileRecorder::start(&memory.open_path(), &trace)?;
    let mut seen = Seen::default();
    let outcome = board.run(linux::LIMIT, |line| {
        if line.starts_with("guest: ") {
            step.detail(line);
        }
        seen.look(line, &memory, mac.screen);
        bench::is_last(line)
    })?;
    recorder.finish()?;
    let name = "u-boot";
    bench.keep(name, &outcome)?;
    judge(&outcome, &u_boot.version)
        .and_then(|()| seen.judge())
        .and_then(|()| judge_darts(&TraceFile::open(&trace)?))
        .with_context(|| format!("the log: {}", bench.log(name).display()))?;
    Ok(format!(
        "U-Boot {}, its DARTs driven and given up, {} to user space",
        u_boot.version, kernel.release
    ))
}

/// A Mac with memory for U-Boot, which sets a GiB of it aside for a kernel; a kernel in it; and a
/// person at its serial port.
fn mac(guest: &GuestFiles) -> Result<Mac> {
    let mut mac = Mac { has_usb: true, ..oche_m1_sim::linux::mac() };
    // U-Boot has devices bypass their DARTs where it can. An M1's USB DARTs can; its PCIe DARTs
    // cannot, and there U-Boot has tables of its own. This controller's second DART stands for
    // them.
    mac.settings[3] = DartSetting::NoBypass;
    mac.memory.end += 2 << 30;
    // Without bytes between rows, as on a MacBook Air (AsahiLinux/m1n1#107): U-Boot does not read
    // `stride`.
    let start = mac.screen.start + (2 << 30);
    let bytes = u64::from(screen::WIDTH * screen::HEIGHT * 4);
    mac.screen = PhysRange { start, end: start + bytes };
    let initrd = guest.initrd.as_ref().context("a guest without an initrd")?;
    let read = |path| fs::read(path).with_context(|| format!("cannot read {path:?}"));
    let (kernel, initrd) = (read(&guest.kernel)?, read(initrd)?);
    let commands = [
        ("autoboot:  2 ", " ".to_owned()),
        (PROMPT, format!("setenv bootargs {}\n", linux::BOOT_ARGUMENTS)),
        (PROMPT, format!("booti {KERNEL:x} {INITRD:x}:{:x} ${{fdtcontroladdr}}\n", initrd.len())),
    ];
    let typed = commands.map(|(behind, text)| TypedText { behind: behind.into(), text });
    Ok(Mac { files: vec![(KERNEL, kernel), (INITRD, initrd)], typed: typed.into(), ..mac })
}

/// What is looked up while the machine stands still behind a line.
#[derive(Debug, Default)]
struct Seen {
    /// Pixels with a colour as U-Boot starts the kernel.
    coloured: Option<usize>,
    /// Registers of streams that the hardware's DARTs hold as the kernel starts.
    left: Option<Vec<String>>,
}

impl Seen {
    fn look(&mut self, line: &str, memory: &BoardMemory, screen: PhysRange) {
        if line.starts_with("Starting kernel") {
            let mut bytes = vec![0; screen.size() as usize];
            memory.read(screen.start, &mut bytes);
            self.coloured = Some(screen::coloured_pixels(&bytes));
        } else if line.contains("] Linux version ") {
            self.left = Some(DRIVEN.iter().flat_map(|(number, _)| left(memory, *number)).collect());
        }
    }

    fn judge(&self) -> Result<()> {
        if self.coloured.context("U-Boot has not started the kernel")? < LEAST_COLOURED {
            bail!("U-Boot has not drawn its logo");
        }
        match self.left.as_deref().context("the kernel has not started")? {
            [] => Ok(()),
            [first, ..] => bail!("as the kernel starts, {first}"),
        }
    }
}

/// The registers of streams that hold anything: the hardware's, behind Oche.
fn left(memory: &BoardMemory, number: usize) -> Vec<String> {
    let base = DARTS.get(number).map_or(0, |(base, ..)| *base);
    let offsets = (TCR..TCR + 4 * STREAMS).chain(TTBR..TTBR + 16 * STREAMS).step_by(4);
    offsets
        .map(|offset| (offset, memory.word(base + offset)))
        .filter(|(_, value)| *value != 0)
        .map(|(offset, value)| format!("register {offset:#x} of DART {base:#x} is {value:#x}"))
        .collect()
}

fn judge_darts(trace: &TraceFile) -> Result<()> {
    for (number, way) in DRIVEN {
        let base = DARTS.get(number).map_or(0, |(base, ..)| *base);
        History::read(trace, base)?.judge(way).with_context(|| format!("DART {base:#x}"))?;
    }
    Ok(())
}

fn judge(outcome: &BoardOutcome, version: &str) -> Result<()> {
    bench::judge(outcome)?;
    // Debian's revision is in U-Boot's own version.
    for wanted in [&*format!("U-Boot {version} "), "Model: Apple MacBook Air"] {
        if !outcome.has_line(wanted) {
            bail!("no line has `{wanted}`");
        }
    }
    if outcome.usb_events == 0 {
        bail!("U-Boot has not started the USB controller");
    }
    linux::judge(outcome)
}
