//! A guest that resets its machine: what Oche had traced until then is still there after the next boot.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use oche::el2::Toolchain;
use oche::pack::{self, Guest};
use oche::progress::Step;
use oche::trace::reader::Item;
use oche::trace::recorder::record_previous;
use oche::trace::{Recorder, TraceFile};
use oche::{el2, workspace};
use oche_hyp::trace::record::Record;

use crate::guest::initramfs::Initramfs;
use crate::guest::kernel::{self, KernelChoice};
use crate::guest::module;
use crate::guest::userland::Userland;
use crate::qemu::{Machine, Running, Serial, Wish, escape_commas};

/// The guest's script.
const SCRIPT: &str = include_str!("reset.sh");
/// Bytes of the disk that the guest leaves the trace on, and where on it.
const DISK_BYTES: u64 = 32 << 20;
const COPY_AT: usize = 1 << 20;
/// Events of the first boot: fewer were not the disk's.
const LEAST: usize = 1000;

/// Boots the guest, which resets itself once, and compares what is left of the first boot with what was recorded then.
///
/// # Errors
///
/// Something of the first boot is missing, or the run cannot be made.
pub(super) fn run(toolchain: Toolchain, step: &Step) -> Result<String> {
    let folder = workspace::target().join("test").join("reset");
    workspace::create_folder(&folder)?;
    let kernel = kernel::fetch(&KernelChoice::stock(), step)?;
    let mut initramfs = Initramfs::new(&Userland::fetch(step)?)?;
    initramfs.add_module_file(&module::build(&kernel, step)?.path)?;
    initramfs.add_modules(&kernel, &["virtio_mmio", "virtio_pci", "virtio_blk", "?virtio_console"])?;
    initramfs.set_init(SCRIPT);
    let initrd = folder.join("initrd.cpio");
    initramfs.write(&initrd)?;
    let guest = Guest { kernel: kernel.image, initrd: Some(initrd), options: Vec::new() };
    let image = folder.join("oche.img");
    pack::pack(&el2::build(toolchain, &[], step)?, &guest, &image)?;
    let (translated, plain) = (folder.join("translated.img"), folder.join("plain.img"));
    for (path, bytes) in [(&translated, 4 << 20), (&plain, DISK_BYTES)] {
        let file = fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        file.set_len(bytes)?;
    }
    let drive = |id: &str, path: &Path| {
        format!("if=none,format=raw,id={id},file={}", escape_commas(path).to_string_lossy())
    };
    let arguments = [
        "-action",
        "reboot=reset",
        "-drive",
        &drive("translated", &translated),
        "-device",
        "virtio-blk-pci,drive=translated,addr=1,iommu_platform=on,disable-legacy=on",
        "-drive",
        &drive("plain", &plain),
        "-global",
        "virtio-mmio.force-legacy=false",
        "-device",
        "virtio-blk-device,drive=plain",
    ];
    let machine = Machine {
        cpu: "cortex-a76".into(),
        cpus: 2,
        memory_mib: 1024,
        kernel: image,
        initrd: None,
        append: "console=ttyAMA0".into(),
        serial: Serial::Watched,
        arguments: arguments.map(Into::into).to_vec(),
    };
    let console = folder.join("console.log");
    let mut running = Running::start(&machine, &console)?;
    let ram = running.memory().open_path();
    let (outside, left) = (folder.join("outside.oche"), folder.join("left.oche"));
    let recorder = Recorder::start(&ram, &outside)?;
    let mut lines = Vec::new();
    let ending = running.watch(
        Duration::from_secs(150),
        |_, line| {
            lines.extend(line.text.strip_prefix("reset: ").map(str::to_owned));
            Ok(Wish::GoOn)
        },
        |_| Ok(()),
    )?;
    recorder.finish()?;
    ensure!(ending.is_good(), "{ending}; the console is kept in {}", console.display());
    if let Some(error) = lines.iter().find_map(|line| line.strip_prefix("error ")) {
        bail!("in the guest: {error}");
    }
    record_previous(&ram, &left)?;
    let bytes = lines.iter().find_map(|line| line.strip_prefix("bytes ")?.parse::<usize>().ok());
    let inside = folder.join("inside.oche");
    let copy = fs::read(&plain).with_context(|| format!("reading {}", plain.display()))?;
    let copy = copy.get(COPY_AT..).and_then(|copy| copy.get(..bytes.unwrap_or(0))).unwrap_or_default();
    workspace::write_whole(&inside, copy)?;

    let outside = sessions(&TraceFile::open(&outside)?);
    let [first, second] = &outside[..] else { bail!("{} boots were recorded instead of two", outside.len()) };
    ensure!(first.len() >= LEAST && second.len() >= LEAST, "too few events in a boot");
    let left = sessions(&TraceFile::open(&left)?);
    // The recorder looks every few milliseconds: the last events before the reset it may have missed.
    ensure!(
        left.len() == 1 && left[0].starts_with(first),
        "the RAM file holds other events of the first boot"
    );
    let inside = sessions(&TraceFile::open(&inside)?);
    ensure!(inside.len() == 2 && inside[0] == left[0], "the port tells other events of the first boot");
    ensure!(
        inside[1].len() >= LEAST && second.starts_with(&inside[1]),
        "the port tells others of the second"
    );
    Ok(format!("{} events of the boot before are kept, {} of them recorded then", left[0].len(), first.len()))
}

/// The records of each boot, those of each CPU together.
fn sessions(trace: &TraceFile) -> Vec<Vec<Record>> {
    let mut sessions: Vec<Vec<Record>> = Vec::new();
    for item in trace.events() {
        match (item, sessions.last_mut()) {
            (Item::Session(_), _) => sessions.push(Vec::new()),
            (Item::Record(record), Some(session)) => session.push(record),
            _ => {}
        }
    }
    sessions
}
