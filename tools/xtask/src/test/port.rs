//! The trace read inside a stock guest, from the port that Oche plays: the same records as from outside.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use oche::el2::Toolchain;
use oche::pack::{self, Guest};
use oche::progress::Step;
use oche::trace::reader::Item;
use oche::trace::{Recorder, TraceFile};
use oche::{el2, workspace};
use oche_hyp::addr::PAGE_BYTES;
use oche_hyp::trace::Event;
use oche_hyp::trace::record::{Kind, Record};
use oche_hyp::trace::snapshot::Assembler;

use crate::guest::initramfs::Initramfs;
use crate::guest::kernel::{self, KernelChoice};
use crate::guest::module;
use crate::guest::userland::Userland;
use crate::qemu::{Machine, Running, Serial, Wish};

/// The guest's script.
const SCRIPT: &str = include_str!("port.sh");
/// Blocks of the disk that the guest leaves the trace on, and of the one that it reads.
const DISK_BLOCKS: u32 = 4096;
/// Blocks that the guest reads while it has snapshots taken; most are seen whole.
const LEAST_SNAPSHOTS: usize = 900;

/// Block `number` of the disk that the guest reads.
fn block(number: u32) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        (0..PAGE_BYTES as u32 / 4).flat_map(|word| (number ^ word << 16).to_le_bytes()).collect();
    bytes.truncate(PAGE_BYTES);
    bytes
}

/// Boots the guest, and compares what it read from the port with what was recorded from its memory.
///
/// # Errors
///
/// The guest finds no port, the two differ, or a run cannot be made.
pub(super) fn run(toolchain: Toolchain, step: &Step) -> Result<String> {
    let folder = workspace::target().join("test").join("port");
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
    workspace::write_whole(&translated, &(0..DISK_BLOCKS).flat_map(block).collect::<Vec<u8>>())?;
    workspace::write_whole(&plain, &vec![0; DISK_BLOCKS as usize * PAGE_BYTES])?;
    let drive = |id: &str, path: &Path| {
        format!("if=none,format=raw,id={id},file={}", crate::qemu::escape_commas(path).to_string_lossy())
    };
    let arguments = [
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
    let outside = folder.join("outside.oche");
    let recorder = Recorder::start(&running.memory().open_path(), &outside)?;
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
    let bytes = told(&lines)?;
    let inside = folder.join("inside.oche");
    let mut copy = fs::read(&plain).with_context(|| format!("reading {}", plain.display()))?;
    copy.truncate(bytes);
    workspace::write_whole(&inside, &copy)?;
    let inside = TraceFile::open(&inside)?;
    let records = compare(&inside, &TraceFile::open(&outside)?)?;
    check_filters(&inside)?;
    let blocks = seen_blocks(&inside)?;
    if blocks < LEAST_SNAPSHOTS {
        bail!("only {blocks} blocks of the disk are among the snapshots");
    }
    Ok(format!(
        "{records} events read in the guest, each as recorded from outside; {blocks} blocks of the disk among the snapshots"
    ))
}

/// Counts the blocks of the disk that a snapshot shows as the device wrote them.
fn seen_blocks(inside: &TraceFile) -> Result<usize> {
    let mut assembler = Assembler::default();
    let mut seen = BTreeSet::new();
    for taken in records(inside).filter_map(|record| assembler.take(&record)) {
        let is_written = matches!(taken.record.event(), Some(Event::Snapshot { is_written: true, .. }));
        let Some(first) = taken.bytes.first_chunk().filter(|_| is_written) else { continue };
        let number = u32::from_le_bytes(*first);
        // Other pages that the device writes are the queues' and its status.
        if number < DISK_BLOCKS && block(number).starts_with(&taken.bytes) {
            seen.insert(number);
        }
    }
    if assembler.incomplete > 0 {
        bail!("{} snapshots lack a part", assembler.incomplete);
    }
    Ok(seen.len())
}

/// How many bytes the guest says that it read.
fn told(lines: &[String]) -> Result<usize> {
    let said = |name: &str| lines.iter().find_map(|line| line.strip_prefix("port: ")?.strip_prefix(name));
    if let Some(error) = said("error ") {
        bail!("in the guest: {error}");
    }
    if said("name ") != Some("org.oche.trace") {
        bail!("the guest names the port {:?}", said("name "));
    }
    let number = |name| said(name).and_then(|number| number.parse::<usize>().ok()).unwrap_or(0);
    if number("again ") == 0 {
        bail!("the port could not be read a second time");
    }
    match number("bytes ") {
        0 => bail!("the guest read nothing from the port"),
        bytes => Ok(bytes),
    }
}

/// Checks the trace from the port against the one from memory. Gives how many records it has.
///
/// # Errors
///
/// A record is another one than in memory, or some are lost.
pub(super) fn compare(inside: &TraceFile, outside: &TraceFile) -> Result<usize> {
    if let Some(warning) = inside.warnings.first() {
        bail!("the trace from the port: {warning}");
    }
    let outside: HashMap<(u8, u32), Record> = records(outside).map(|record| (key(&record), record)).collect();
    let mut count = 0;
    for record in records(inside) {
        if outside.get(&key(&record)) != Some(&record) {
            bail!("the port gave a record that was not recorded: {record:?}");
        }
        count += 1;
    }
    if inside.events().any(|item| matches!(item, Item::Lost { .. } | Item::Unreadable { .. })) {
        bail!("the port lost events");
    }
    Ok(count)
}

/// Checks what the guest ordered in between.
fn check_filters(inside: &TraceFile) -> Result<()> {
    let mut filters = Vec::new();
    for record in records(inside) {
        // Between the two orders of the guest, nothing but what it asked for.
        let is_asked = matches!(record.kind(), Some(Kind::Map | Kind::Unmap | Kind::Filter));
        if filters.len() == 1 && !is_asked {
            bail!("the guest's filter let {record:?} through");
        }
        filters.extend((record.kind() == Some(Kind::Filter)).then_some(record.time()));
    }
    if filters.len() != 3 {
        bail!("the guest ordered three changes of what is recorded and {} are in the trace", filters.len());
    }
    Ok(())
}

fn key(record: &Record) -> (u8, u32) {
    (record.cpu(), record.sequence())
}

fn records(trace: &TraceFile) -> impl Iterator<Item = Record> {
    trace.events().filter_map(|item| match item {
        Item::Record(record) => Some(record),
        _ => None,
    })
}
