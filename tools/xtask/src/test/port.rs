//! The trace read inside a stock guest, from the port that Oche emulates: the same records as from
//! outside.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Result, bail};
use oche::el2::Toolchain;
use oche::progress::Step;
use oche::trace::TraceFile;
use oche::trace::reader::TraceItem;
use oche::workspace;
use oche_trace::record::Record;
use oche_trace::snapshot::Assembler;
use oche_types::addr::PAGE_BYTES;
use oche_types::event::{Event, Kind};

use super::guest_clock;
use super::stock::{self, DISK_AND_PORT, StockGuest, TwoDisks, value};

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
    let folder = stock::folder("port")?;
    let bytes = u64::from(DISK_BLOCKS) * PAGE_BYTES as u64;
    // The guest's own trace stands behind Oche's.
    let disks = TwoDisks::create(&folder, bytes, 2 * bytes)?;
    workspace::write_whole(
        &disks.translated,
        &(0..DISK_BLOCKS).flat_map(block).collect::<Vec<u8>>(),
    )?;
    let guest = StockGuest {
        folder: &folder,
        script: SCRIPT,
        modules: DISK_AND_PORT,
        driver: None,
        options: &[],
        cpus: 2,
        devices: disks.arguments(),
    };
    let outside = folder.join("outside.oche");
    let boot = guest.boot(toolchain, Some(&outside), step)?;
    let lines = boot.lines_of("port: ")?;
    let bytes = reported(&lines)?;
    let inside = folder.join("inside.oche");
    let mut copy = disks.left()?;
    let text = copy.split_off(DISK_BLOCKS as usize * PAGE_BYTES);
    let length = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    let ftrace = folder.join("ftrace.txt");
    workspace::write_whole(&ftrace, text.get(..length).unwrap_or_default())?;
    copy.truncate(bytes);
    workspace::write_whole(&inside, &copy)?;
    let inside = TraceFile::open(&inside)?;
    let records = compare(&inside, &TraceFile::open(&outside)?)?;
    check_filters(&inside)?;
    let blocks = seen_blocks(&inside)?;
    let clock = guest_clock::check(&ftrace, &outside, &lines)?;
    if blocks < LEAST_SNAPSHOTS {
        bail!("only {blocks} blocks of the disk are among the snapshots");
    }
    Ok(format!(
        "{records} events read in the guest, each as recorded from outside; {blocks} blocks of the disk among the snapshots; {clock}"
    ))
}

/// Counts the blocks of the disk that a snapshot shows as the device wrote them.
fn seen_blocks(inside: &TraceFile) -> Result<usize> {
    let mut assembler = Assembler::default();
    let mut seen = BTreeSet::new();
    for taken in records(inside).filter_map(|record| assembler.take(&record)) {
        let is_written =
            matches!(taken.record.event(), Some(Event::Snapshot { is_written: true, .. }));
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

/// How many bytes the guest reports to have read.
fn reported(lines: &[&str]) -> Result<usize> {
    let name = value(lines, "name ");
    if name != Some("org.oche.trace") {
        bail!("the guest names the port {name:?}");
    }
    let number =
        |name| value(lines, name).and_then(|number| number.parse::<usize>().ok()).unwrap_or(0);
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
    let outside: HashMap<(u8, u32), Record> =
        records(outside).map(|record| (key(&record), record)).collect();
    let mut count = 0;
    for record in records(inside) {
        if outside.get(&key(&record)) != Some(&record) {
            bail!("the port gave a record that was not recorded: {record:?}");
        }
        count += 1;
    }
    if inside
        .events()
        .any(|item| matches!(item, TraceItem::Lost { .. } | TraceItem::Unreadable { .. }))
    {
        bail!("the port lost events");
    }
    Ok(count)
}

/// Checks what the guest ordered in between.
fn check_filters(inside: &TraceFile) -> Result<()> {
    let mut filters = Vec::new();
    for record in records(inside) {
        // Between the two orders of the guest: what it asked for, and who called for it.
        let is_asked = matches!(
            record.kind(),
            Some(Kind::Map | Kind::Unmap | Kind::Filter | Kind::CallChain | Kind::Data)
        );
        if filters.len() == 1 && !is_asked {
            bail!("the guest's filter let {record:?} through");
        }
        filters.extend((record.kind() == Some(Kind::Filter)).then_some(record.time()));
    }
    if filters.len() != 3 {
        bail!(
            "the guest ordered three changes of what is recorded and {} are in the trace",
            filters.len()
        );
    }
    Ok(())
}

fn key(record: &Record) -> (u8, u32) {
    (record.cpu(), record.sequence())
}

fn records(trace: &TraceFile) -> impl Iterator<Item = Record> {
    trace.events().filter_map(|item| match item {
        TraceItem::Record(record) => Some(record),
        _ => None,
    })
}
