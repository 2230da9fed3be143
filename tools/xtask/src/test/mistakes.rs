//! Mistakes of drivers, made in a stock kernel on purpose, and what `oche trace` says of them.
//!
//! The traces stay in `target/test/mistakes/`: the worked examples of `docs/trace-examples.md` are made from them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use oche::el2::Toolchain;
use oche::pack::{self, Guest};
use oche::progress::Step;
use oche::trace::check::{Detector, check};
use oche::trace::leaks::leaks;
use oche::trace::maps::Whom;
use oche::trace::symbols::Symbols;
use oche::trace::why::{Question, why};
use oche::trace::{Recorder, TraceFile};
use oche::{el2, workspace};

use crate::guest::initramfs::Initramfs;
use crate::guest::kernel::{self, KernelChoice};
use crate::guest::module;
use crate::guest::userland::Userland;
use crate::qemu::{Machine, Running, Serial, Wish, escape_commas};

/// The guest's script.
const SCRIPT: &str = include_str!("mistakes.sh");
/// The driver that forgets a mapping.
const DRIVER: [(&str, &str); 2] =
    [("Kbuild", include_str!("mistakes/Kbuild")), ("edu-copy.c", include_str!("mistakes/edu-copy.c"))];

/// Boots the guest, and asks the trace what went wrong.
///
/// # Errors
///
/// The trace does not tell, or a run cannot be made.
pub(super) fn run(toolchain: Toolchain, step: &Step) -> Result<String> {
    let folder = workspace::target().join("test").join("mistakes");
    workspace::create_folder(&folder)?;
    let machine = machine(toolchain, &folder, step)?;
    let path = folder.join("trace.oche");
    let lines = boot(&machine, &folder, &path)?;
    let said = |what: &str| {
        let prefix = format!("mistakes: {what} ");
        lines.iter().filter_map(move |line| line.strip_prefix(prefix.as_str()).map(str::to_owned))
    };
    if let Some(error) = said("error").next() {
        bail!("the guest says: {error}");
    }
    let names: Vec<String> = said("symbol").collect();
    let symbols = folder.join("symbols");
    workspace::write_whole(&symbols, names.join("\n").as_bytes())?;
    let queue = said("queue").next().context("the guest does not say where the NVMe's queue was")?;
    let queue = u64::from_str_radix(queue.trim().trim_start_matches("0x"), 16).context("the NVMe's queue")?;
    judge(&TraceFile::open(&path)?, queue)
}

fn machine(toolchain: Toolchain, folder: &Path, step: &Step) -> Result<Machine> {
    let kernel = kernel::fetch(&KernelChoice::stock(), step)?;
    let mut initramfs = Initramfs::new(&Userland::fetch(step)?)?;
    initramfs.add_module_file(&module::build(&kernel, step)?.path)?;
    initramfs
        .add_modules(&kernel, &["?crc64_rocksoft_generic", "?crct10dif_ce", "?crc32c_generic", "nvme"])?;
    initramfs.add_module_file(&module::build_own(&kernel, &DRIVER, "edu-copy.ko", step)?)?;
    initramfs.set_init(SCRIPT);
    let initrd = folder.join("initrd.cpio");
    initramfs.write(&initrd)?;
    let guest = Guest { kernel: kernel.image, initrd: Some(initrd), options: Vec::new() };
    let image = folder.join("oche.img");
    pack::pack(&el2::build(toolchain, &[], step)?, &guest, &image)?;
    let disk = folder.join("nvme.img");
    workspace::write_whole(&disk, &vec![0x5a; 8 << 20])?;
    let drive = format!("if=none,format=raw,id=nvme,file={}", escape_commas(&disk).to_string_lossy());
    let arguments = [
        "-drive",
        &drive,
        "-device",
        "nvme,addr=4,drive=nvme,serial=oche-nvme",
        "-device",
        "edu,addr=8,dma_mask=0xffffffff",
    ];
    Ok(Machine {
        cpu: "cortex-a76".into(),
        // On one CPU nobody disturbs the NVMe's line: see the demo's `relieve_nvme_line`.
        cpus: 1,
        memory_mib: 1024,
        kernel: image,
        initrd: None,
        append: "console=ttyAMA0".into(),
        serial: Serial::Watched,
        arguments: arguments.map(Into::into).to_vec(),
    })
}

/// Boots, records to `path`, and gives the console's lines.
fn boot(machine: &Machine, folder: &Path, path: &Path) -> Result<Vec<String>> {
    let console = folder.join("console.log");
    let mut running = Running::start(machine, &console)?;
    let recorder = Recorder::start(&running.memory().open_path(), path)?;
    let mut lines = Vec::new();
    let ending = running.watch(
        Duration::from_secs(150),
        |_, line| {
            lines.push(line.text.clone());
            Ok(Wish::GoOn)
        },
        |_| Ok(()),
    )?;
    recorder.finish()?;
    if !ending.is_good() {
        bail!("{ending}; the console is kept in {}", console.display());
    }
    Ok(lines)
}

/// What the worked examples say must be what the trace says.
fn judge(trace: &TraceFile, queue: u64) -> Result<String> {
    let (symbols, whom) = (Symbols::default(), Whom::default());
    let question = Question { iova: queue, whom: whom.clone(), at_ns: None };
    let answer = why(trace, 0, &question, &symbols);
    let told = answer.devices.iter().flat_map(|device| &device.sentences);
    if !told.clone().any(|sentence| sentence.contains("use after unmap")) {
        bail!(
            "of the NVMe's queue at {queue:#x} the trace says only: {}",
            told.cloned().collect::<Vec<_>>().join(" ")
        );
    }
    let leaks = leaks(trace, 0, &whom, &symbols);
    let suspects = leaks.groups.iter().flat_map(|group| &group.suspects);
    let overtaken: Vec<u64> = suspects.map(|suspect| suspect.overtaken).collect();
    let [overtaken] = overtaken.as_slice() else {
        bail!("{} mappings look forgotten instead of one", overtaken.len());
    };
    let report = check(trace, &symbols, false);
    let errors = report.iter().flat_map(|report| &report.findings).map(|finding| finding.detector);
    let errors: Vec<Detector> = errors.collect();
    if !errors.contains(&Detector::UseAfterUnmap)
        || errors.iter().any(|error| *error != Detector::UseAfterUnmap)
    {
        bail!("the detectors find {errors:?} instead of use after unmap");
    }
    Ok(format!(
        "a queue used after its unmap is explained; a page that {overtaken} later ones overtook is found"
    ))
}
