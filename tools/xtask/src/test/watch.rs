//! A stock guest's virtio driver, watched as it fills its rings: which of its functions stores
//! what. Meanwhile tshark captures the same events live.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use oche::el2::Toolchain;
use oche::progress::Step;
use oche::trace::TraceFile;
use oche::trace::callers::ByCaller;
use oche::trace::lifetime::{Lifetimes, StreamPlace};
use oche::trace::reader::TraceItem;
use oche::trace::symbols::{SymbolOptions, Symbols};
use oche::trace::values::WithValues;
use oche::workspace;
use oche_types::addr::IovaPage;
use oche_types::event::{Event, Kind, WatchHow};

use super::guest_names;
use super::live_capture::LiveCapture;
use super::stock::{self, DISK_AND_PORT, StockGuest, TwoDisks, value};

/// The guest's script.
const SCRIPT: &str = include_str!("watch.sh");
/// The IOVAs of the driver's rings: Linux allocates from the top.
const WATCHED: &str = "watch 0xffc00000-0xffffffff streams 0:1";
/// The function of the stock kernel's driver that fills descriptors.
const DRIVER: &str = "virtqueue_add";
/// Of the 64 reads before, and of those after the watch was off, so many must be seen at least.
const LEAST: usize = 64;
/// Bytes of the disk that the guest leaves its symbols on.
const SYMBOL_BYTES: u64 = 32 << 20;

/// Boots the guest, and looks for the driver's stores in the trace.
///
/// # Errors
///
/// They are not there, or at a time without a watch; or the run cannot be made.
pub(super) fn run(toolchain: Toolchain, step: &Step) -> Result<String> {
    let folder = stock::folder("watch")?;
    let recorded = record(&folder, toolchain, step)?;
    let seen = Seen::of(&TraceFile::open(&recorded.trace)?, &recorded.symbols)?;
    Ok(format!(
        "{}; {} packets captured live by tshark; {} named from its memory as it names them",
        seen.judge()?,
        recorded.packets,
        recorded.named
    ))
}

/// What is left of the guest's run.
struct Recorded {
    trace: PathBuf,
    /// The names of the guest's functions.
    symbols: Symbols,
    /// Packets that tshark captured meanwhile.
    packets: usize,
    /// What is named from the guest's memory.
    named: String,
}

fn record(folder: &Path, toolchain: Toolchain, step: &Step) -> Result<Recorded> {
    let disks = TwoDisks::create(folder, 4 << 20, SYMBOL_BYTES)?;
    let guest = StockGuest {
        folder,
        script: SCRIPT,
        modules: DISK_AND_PORT,
        driver: None,
        options: &[("oche.trace-orders", WATCHED)],
        cpus: 2,
        devices: disks.arguments(),
    };
    let trace = folder.join("trace.oche");
    let capture = LiveCapture::start(&folder.join("guest.ram"), folder, step)?;
    let boot = guest.boot(toolchain, Some(&trace), step)?;
    let packets = capture.finish(&trace)?;
    let bytes =
        value(&boot.lines_of("watch: ")?, "symbols ").and_then(|bytes| bytes.parse::<usize>().ok());
    let mut names = disks.left()?;
    names.truncate(bytes.context("the guest left no symbols")?);
    let named = guest_names::compare(&boot.ram(), &String::from_utf8_lossy(&names))?;
    let map = folder.join("kallsyms");
    workspace::write_whole(&map, &names)?;
    let options = SymbolOptions { symbols: Some(map), ..SymbolOptions::default() };
    Ok(Recorded { trace, symbols: options.load()?, packets, named })
}

/// The functions that are named most often.
fn most(functions: &BTreeMap<String, usize>) -> String {
    let mut most: Vec<(&String, &usize)> = functions.iter().collect();
    most.sort_by_key(|(_, times)| core::cmp::Reverse(**times));
    let most: Vec<String> =
        most.iter().take(3).map(|(name, times)| format!("{name} {times}")).collect();
    most.join(", ")
}

/// The driver's stores that are in the trace.
#[derive(Debug, Default)]
struct Seen {
    /// Between one change of what is watched and the next: accesses reported, and descriptors that
    /// name a mapped buffer.
    spans: Vec<(usize, usize)>,
    /// Stores by the function that they are in.
    functions: BTreeMap<String, usize>,
    /// Maps by the function that requested them.
    callers: BTreeMap<String, usize>,
}

impl Seen {
    fn of(trace: &TraceFile, symbols: &Symbols) -> Result<Self> {
        let mut seen = Self::default();
        let mut lifetimes = Lifetimes::default();
        let mut by = ByCaller::new(symbols);
        for item in trace.events() {
            let TraceItem::Record(record) = item else { continue };
            let record = by.apply(&record);
            if record.kind() == Some(Kind::Map) {
                let name = symbols
                    .find(record.program_counter())
                    .map_or("unknown", |place| place.function);
                *seen.callers.entry(name.to_owned()).or_default() += 1;
            }
        }
        for (item, value) in WithValues::new(trace.events()) {
            let record = match item {
                TraceItem::Record(record) => record,
                TraceItem::Session(_) => continue,
                TraceItem::Lost { .. } | TraceItem::Unreadable { .. } => bail!("events were lost"),
            };
            lifetimes.apply(&record);
            match record.event() {
                Some(Event::Filter { .. }) => seen.spans.push((0, 0)),
                Some(Event::Watch { at, is_write, how: WatchHow::Exact, bytes, .. }) => {
                    ensure!(value.len() == usize::from(bytes), "an access without its value");
                    let Some((accesses, descriptors)) = seen.spans.last_mut() else { continue };
                    *accesses += 1;
                    let name = symbols.find(record.program_counter()).map(|place| place.function);
                    if let Some(name) = name.filter(|_| is_write) {
                        *seen.functions.entry(name.to_owned()).or_default() += 1;
                        // A descriptor's first field: where the buffer is. It was mapped just
                        // before.
                        let buffer =
                            value.first_chunk().filter(|_| name.contains(DRIVER) && bytes == 8);
                        let page = buffer
                            .map(|buffer| IovaPage((u64::from_le_bytes(*buffer) >> 12) as u32));
                        let place = StreamPlace::new(at.dart, at.stream);
                        let is_mapped =
                            page.is_some_and(|page| lifetimes.at(place, page).is_some());
                        *descriptors += usize::from(is_mapped);
                    }
                }
                _ => {}
            }
        }
        Ok(seen)
    }

    fn judge(&self) -> Result<String> {
        let [(watched, first), (unwatched, _), (again, second)] = self.spans[..] else {
            bail!("three settings were asked for, and {} are in the trace", self.spans.len());
        };
        let functions = || self.functions.iter().map(|(name, stores)| format!("{name} {stores}"));
        ensure!(
            first >= LEAST && second >= LEAST,
            "only {first} and {second} descriptors were seen, of {watched} and {again} accesses; stores by {}",
            functions().collect::<Vec<_>>().join(", ")
        );
        ensure!(unwatched == 0, "{unwatched} accesses were reported without a watch");
        // The only device behind a DART is the disk, whose driver has every page of a transfer
        // mapped. The queues' own pages are put down to the transport's `setup_vq`: a chain has ten
        // callers at most, and ends there.
        let is_its = |name: &String| name.starts_with("virtblk_") || name.starts_with("virtio_");
        let all: usize = self.callers.values().sum();
        let its: usize =
            self.callers.iter().filter(|(name, _)| is_its(name)).map(|(_, maps)| maps).sum();
        ensure!(
            all > 0 && its * 10 >= all * 9,
            "of {all} maps only {its} are put down to the driver: {}",
            most(&self.callers)
        );
        Ok(format!(
            "{} accesses to the rings, {} descriptors that name a mapped buffer; most stores by {}; most maps by {}",
            watched + again,
            first + second,
            most(&self.functions),
            most(&self.callers)
        ))
    }
}
