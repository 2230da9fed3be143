//! The guest's clock, known from its own trace: every page that the guest's ftrace maps and unmaps
//! is mapped in Oche's trace in between, and the guest's uptime around a disk's DMA is that of the
//! events.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use oche::trace::TraceFile;
use oche::trace::align::align;
use oche::trace::clock::{ClockName, ClockOptions};
use oche::trace::filter::EventFilter;
use oche::trace::ftrace::Ftrace;
use oche::trace::perfetto::{GuestTrace, write_merged};
use oche::trace::reader::TraceItem;
use oche::trace::symbols::Symbols;
use oche::trace::words::span;
use oche_types::event::Event;

use super::stock::value;

/// Pages that the guest maps for a disk while both trace, at least. The guest's script has each
/// request read 16 KiB, so the 4 MiB take 256 or more.
const LEAST_PAGES: usize = 200;
/// The digits of `/proc/uptime`, in nanoseconds.
const UPTIME_STEP: u64 = 10_000_000;

/// Checks the clock of the guest whose trace is in the file `ftrace`, against Oche's trace
/// `outside`. Gives a summary of a few words.
///
/// # Errors
///
/// The two do not agree, or a file cannot be read.
pub(super) fn check(ftrace: &Path, outside: &Path, lines: &[&str]) -> Result<String> {
    let guest = Ftrace::open(ftrace)?;
    if let Some(complaint) = guest.complaint() {
        bail!("the guest's trace: {complaint}");
    }
    let mut trace = TraceFile::open(outside)?;
    let found = align(&guest, &trace, 0)?;
    let options = ClockOptions {
        clock: ClockName::Boot,
        ftrace: Some(ftrace.to_owned()),
        clock_offset: None,
    };
    options.apply(&mut trace)?;
    let maps = maps_of(&trace);
    let pages = compare(&guest, &maps, found.slack_ns)?;
    check_uptime(lines, &guest, &maps)?;
    merge(&guest, outside, found.offset_ns)?;
    Ok(format!(
        "the guest's ftrace has {pages} pages mapped, each when Oche sees it; its clock is known to {}",
        span(found.slack_ns)
    ))
}

/// A page: its IOVA and its guest-physical address.
type Page = (u64, u64);

/// When Oche saw each page mapped, in the clock that `trace` shows.
fn maps_of(trace: &TraceFile) -> HashMap<Page, Vec<u64>> {
    let mut maps: HashMap<Page, Vec<u64>> = HashMap::new();
    let Some(session) = trace.sessions.first() else { return maps };
    let clock = session.description.clock();
    for item in trace.events() {
        if let TraceItem::Record(record) = item
            && let Some(Event::Map { at, page, .. }) = record.event()
        {
            let page = (at.iova.iova(), page.address());
            maps.entry(page).or_default().push(clock.nanoseconds(record.time()));
        }
    }
    maps
}

/// Each page that the guest maps and unmaps: Oche saw it mapped in between. All of
/// them, with one offset.
fn compare(guest: &Ftrace, maps: &HashMap<Page, Vec<u64>>, slack: u64) -> Result<usize> {
    let mut open: HashMap<u64, (Page, u64)> = HashMap::new();
    let mut pages = 0;
    for event in guest.events() {
        let Some(iova) = address(event.fields, "iova=") else { continue };
        match (event.name, address(event.fields, "paddr=")) {
            ("map", Some(physical)) => {
                open.insert(iova, ((iova, physical), event.time_ns));
            }
            ("unmap", _) => {
                let Some((page, mapped)) = open.remove(&iova) else { continue };
                // The guest's clock may be ahead of what is known by so much, and ftrace's text
                // rounds to microseconds.
                let range = mapped.saturating_sub(slack + 1000)..=event.time_ns + 1000;
                let times = maps.get(&page).map(Vec::as_slice).unwrap_or_default();
                ensure!(
                    times.iter().any(|time| range.contains(time)),
                    "the guest maps {:#x} to {:#x} at {mapped} ns of its clock and unmaps it at {}; Oche saw it \
                     mapped at {times:?}",
                    page.0,
                    page.1,
                    event.time_ns
                );
                pages += 1;
            }
            _ => {}
        }
    }
    ensure!(pages >= LEAST_PAGES, "the guest's trace has only {pages} pages mapped and unmapped");
    Ok(pages)
}

/// The guest printed its uptime before and after it read the disk.
fn check_uptime(lines: &[&str], guest: &Ftrace, maps: &HashMap<Page, Vec<u64>>) -> Result<()> {
    let uptime = |name: &str| -> Result<u64> {
        let text = value(lines, name).with_context(|| format!("the guest prints no {name}"))?;
        Ok((text.trim().parse::<f64>()? * 1e9) as u64)
    };
    let range = uptime("uptime-before ")?..=uptime("uptime-after ")? + UPTIME_STEP;
    let is_map = |name: &str| name == "map";
    let in_ftrace =
        guest.events().filter(|event| is_map(event.name) && range.contains(&event.time_ns));
    let (in_ftrace, all) = (in_ftrace.count(), maps.values().flatten());
    let in_oche = all.filter(|time| range.contains(time)).count();
    ensure!(
        in_ftrace >= LEAST_PAGES / 4 && in_oche >= in_ftrace,
        "while the guest read the disk, from {range:?} ns of its uptime, its ftrace has {in_ftrace} maps and Oche {in_oche}"
    );
    Ok(())
}

/// Both traces are one in Perfetto's format.
fn merge(guest: &Ftrace, outside: &Path, offset_ns: i64) -> Result<()> {
    let trace = TraceFile::open(outside)?;
    let (filter, symbols) = (EventFilter::default(), Symbols::default());
    let (mut alone, mut merged) = (Vec::new(), Vec::new());
    let guest = GuestTrace { ftrace: guest, offset_ns };
    write_merged(&trace, 0, &filter, &symbols, None, &mut alone)?;
    write_merged(&trace, 0, &filter, &symbols, Some(&guest), &mut merged)?;
    let has = |text: &str| merged.windows(text.len()).any(|bytes| bytes == text.as_bytes());
    ensure!(
        merged.len() > alone.len() && has("guest's CPU 1") && has("irq_handler_entry"),
        "the merged trace lacks the guest's events"
    );
    Ok(())
}

fn address(fields: &str, name: &str) -> Option<u64> {
    let (_, rest) = fields.split_once(name)?;
    u64::from_str_radix(rest.split_whitespace().next()?.strip_prefix("0x")?, 16).ok()
}
