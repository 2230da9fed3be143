//! The mappings at the end of the trace, and which of them look forgotten.
//!
//! A mapping looks forgotten when many later ones of its kind (same device, same direction) came
//! and went while it stayed. Buffers of a ring are used in turn, so an idle ring does not look so;
//! coherent memory (read-write) is meant to stay and is never suspected.

use std::io::{self, Write};

use oche_trace::record::Record;
use oche_trace::text::Clock;
use oche_types::addr::PAGE_BYTES;
use oche_types::dart::entry::Permission;
use rustc_hash::FxHashMap;
use schemars::JsonSchema;
use serde::Serialize;

use super::callers::by_caller;
use super::description::{TraceDescription, labelled};
use super::filter::{Chooser, EventFilter};
use super::lifetime::{Lifetimes, Mapping, MappingChange, StreamPlace};
use super::maps::{BufferRow, buffers, permission_letters, row, write_rows};
use super::reader::{ByteSource, TraceFile, TraceItem};
use super::symbols::Symbols;
use super::words::{many, nanoseconds_between, size, span};

/// Fewest later mappings that must have come and gone while a suspect stayed.
const LEAST_OVERTAKEN: u64 = 64;
/// And how many times as many as were ever mapped at once.
const PEAKS_OVERTAKEN: u64 = 2;

/// The answer to `oche trace leaks`.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Leaks {
    /// When the trace ends, in nanoseconds since Oche's start.
    pub end_ns: u64,
    /// Pages mapped then.
    pub pages: u64,
    /// Pages among them that look forgotten.
    pub suspect_pages: u64,
    /// Events missing: an unmap may be among them.
    pub missing: u64,
    /// By device and direction.
    pub groups: Vec<Group>,
}

/// The mappings that one device still has in one direction.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Group {
    /// The device.
    pub device: String,
    /// The driver that the guest has bound to it, where the trace has that.
    pub driver: Option<String>,
    /// The DART's number.
    pub dart: usize,
    /// The stream's number.
    pub stream: usize,
    /// `rw`, `r-` or `-w`.
    pub permission: &'static str,
    /// Pages mapped at the end.
    pub pages: u64,
    /// Pages that were mapped and unmapped in the trace.
    pub completed: u64,
    /// Median of the times that those were mapped, in nanoseconds.
    pub median_ns: u64,
    /// The longest of those times, in nanoseconds.
    pub longest_ns: u64,
    /// Most pages that were mapped at once.
    pub peak_pages: u64,
    /// Those that look forgotten.
    pub suspects: Vec<Suspect>,
}

/// A buffer that looks forgotten.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Suspect {
    /// The buffer.
    #[serde(flatten)]
    pub buffer: BufferRow,
    /// How many later mappings of its kind came and went while it stayed.
    pub overtaken: u64,
}

/// One kind of mapping: a device and a direction.
#[derive(Clone, Debug, Default)]
struct KindOf {
    live: u64,
    peak: u64,
    completed: u64,
    /// Lifetimes, by the number of bits of their nanoseconds.
    lifetimes: Vec<u64>,
    longest_ns: u64,
}

type KindKey = (StreamPlace, bool, bool);

/// The events of a session, followed to their end.
#[derive(Debug, Default)]
struct Followed {
    lifetimes: Lifetimes,
    kinds: FxHashMap<KindKey, KindOf>,
    /// By address: how many of its kind had completed, and were live, when it began.
    begun: FxHashMap<(u16, u32), u64>,
    missing: u64,
    /// The tick of the last event.
    last: u64,
}

impl Followed {
    fn follow<S: ByteSource>(
        trace: &TraceFile<S>,
        session: usize,
        clock: Clock,
        symbols: &Symbols,
    ) -> Self {
        let mut followed = Self { last: clock.start_ticks, ..Self::default() };
        for item in by_caller(trace.events_of(session), symbols) {
            match item {
                TraceItem::Record(record) => followed.take(&record, clock),
                TraceItem::Lost { records, .. } | TraceItem::Unreadable { records, .. } => {
                    followed.missing = followed.missing.saturating_add(records);
                }
                TraceItem::Session(_) => {}
            }
        }
        followed
    }

    fn take(&mut self, record: &Record, clock: Clock) {
        self.last = self.last.max(record.time());
        match self.lifetimes.apply(record) {
            MappingChange::Mapped { mapping, .. } => self.begin(&mapping),
            MappingChange::Permission { mapping, before } => {
                // Of another kind from now on, as if it had begun now.
                let of_before = key(&Mapping { permission: before, ..mapping });
                let of_before = self.kinds.entry(of_before).or_default();
                of_before.live = of_before.live.saturating_sub(1);
                self.begin(&mapping);
            }
            MappingChange::Unmapped { mapping: Some(mapping), .. } => {
                self.begun.remove(&self.address(&mapping));
                let kind = self.kinds.entry(key(&mapping)).or_default();
                kind.complete(nanoseconds_between(clock, mapping.since.time, record.time()));
            }
            _ => {}
        }
    }

    fn begin(&mut self, mapping: &Mapping) {
        let address = self.address(mapping);
        let kind = self.kinds.entry(key(mapping)).or_default();
        self.begun.insert(address, kind.completed.saturating_add(kind.live));
        kind.live += 1;
        kind.peak = kind.peak.max(kind.live);
    }

    fn address(&self, mapping: &Mapping) -> (u16, u32) {
        (self.lifetimes.space(mapping.owner), mapping.iova.0)
    }
}

/// The mappings at the end of `session`. Of these, `filter` chooses which are listed; what the
/// others of their kind did counts all the same.
pub fn leaks<S: ByteSource>(
    trace: &TraceFile<S>,
    session: usize,
    filter: &EventFilter,
    symbols: &Symbols,
) -> Leaks {
    let Some(description) = trace.sessions.get(session).map(|session| &session.description) else {
        return Leaks::default();
    };
    let clock = description.clock();
    let followed = Followed::follow(trace, session, clock, symbols);
    let end_ns = clock.nanoseconds(followed.last);
    let mut mappings = followed.lifetimes.sorted();
    let mut chooser = Chooser::new(filter, description, symbols);
    mappings.retain(|mapping| chooser.admits_mapping(mapping));
    let pages = mappings.len() as u64;
    let mut leaks = Leaks { end_ns, pages, missing: followed.missing, ..Leaks::default() };
    let mut groups: Vec<(KindKey, Group)> = Vec::new();
    for buffer in buffers(&mappings) {
        let of = key(&buffer.first);
        let kind = followed.kinds.get(&of).cloned().unwrap_or_default();
        let place = groups.iter().position(|(known, _)| *known == of).unwrap_or_else(|| {
            groups.push((of, Group::of(&buffer.first, &kind, description)));
            groups.len() - 1
        });
        let Some((_, group)) = groups.get_mut(place) else { continue };
        group.pages += u64::from(buffer.pages);
        let begun = followed.begun.get(&followed.address(&buffer.first)).copied();
        let overtaken = begun.map_or(0, |begun| kind.completed.saturating_sub(begun));
        let least = LEAST_OVERTAKEN.max(PEAKS_OVERTAKEN.saturating_mul(kind.peak));
        let is_coherent = buffer.first.permission == Permission::READ_WRITE;
        if !is_coherent && overtaken >= least {
            leaks.suspect_pages += u64::from(buffer.pages);
            group
                .suspects
                .push(Suspect { buffer: row(&buffer, clock, end_ns, symbols), overtaken });
        }
    }
    leaks.groups = groups.into_iter().map(|(_, group)| group).collect();
    leaks.groups.sort_by_key(|group| (group.suspects.is_empty(), group.dart, group.stream));
    leaks
}

impl Group {
    /// The group of `mapping`'s kind, with nothing in it yet.
    fn of(mapping: &Mapping, kind: &KindOf, description: &TraceDescription) -> Self {
        Self {
            device: description.name_of(mapping.owner),
            driver: description.driver_of(mapping.owner).map(str::to_owned),
            dart: mapping.owner.dart(),
            stream: mapping.owner.stream(),
            permission: permission_letters(mapping),
            pages: 0,
            completed: kind.completed,
            median_ns: kind.median_ns(),
            longest_ns: kind.longest_ns,
            peak_pages: kind.peak,
            suspects: Vec::new(),
        }
    }
}

impl KindOf {
    fn complete(&mut self, nanoseconds: u64) {
        self.live = self.live.saturating_sub(1);
        self.completed += 1;
        self.longest_ns = self.longest_ns.max(nanoseconds);
        self.lifetimes.resize(65, 0);
        if let Some(count) = self.lifetimes.get_mut((64 - nanoseconds.leading_zeros()) as usize) {
            *count += 1;
        }
    }

    /// Within a factor of two.
    fn median_ns(&self) -> u64 {
        let mut seen = 0;
        for (bits, count) in self.lifetimes.iter().enumerate() {
            seen += count;
            if seen * 2 > self.completed {
                return (1_u64 << bits.min(63)) * 3 / 4;
            }
        }
        0
    }
}

fn key(mapping: &Mapping) -> KindKey {
    (mapping.owner, mapping.permission.read, mapping.permission.write)
}

/// Writes the answer for people.
///
/// # Errors
///
/// Those of `out`.
pub fn write_leaks(leaks: &Leaks, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{} ({}) still mapped when the trace ends; {} forgotten",
        many(leaks.pages, "page"),
        size(leaks.pages * PAGE_BYTES as u64),
        match leaks.suspect_pages {
            0 => "nothing looks".to_owned(),
            1 => "1 page looks".to_owned(),
            pages => format!("{pages} pages look"),
        }
    )?;
    if leaks.missing > 0 {
        writeln!(out, "{} missing: an unmap may be among them", many(leaks.missing, "event"))?;
    }
    writeln!(
        out,
        "\n  {:<26} {:<4} {:>8} {:>8} {:>10} {:>10} {:>10}",
        "device", "may", "pages", "at most", "completed", "median", "longest"
    )?;
    for group in &leaks.groups {
        let (median, longest) = match group.completed {
            0 => ("-".into(), "-".into()),
            _ => (format!("~{}", span(group.median_ns)), span(group.longest_ns)),
        };
        writeln!(
            out,
            "  {:<26} {:<4} {:>8} {:>8} {:>10} {:>10} {:>10}",
            labelled(&group.device, group.driver.as_deref()),
            group.permission,
            group.pages,
            group.peak_pages,
            group.completed,
            median,
            longest
        )?;
    }
    for group in leaks.groups.iter().filter(|group| !group.suspects.is_empty()) {
        writeln!(
            out,
            "\n{}: these stayed while later ones of their kind came and went",
            labelled(&group.device, group.driver.as_deref())
        )?;
        let rows: Vec<BufferRow> =
            group.suspects.iter().map(|suspect| suspect.buffer.clone()).collect();
        write_rows(&rows, out)?;
        let most = group.suspects.iter().map(|suspect| suspect.overtaken).max().unwrap_or(0);
        let longest = span(group.longest_ns);
        writeln!(
            out,
            "  Up to {most} later mappings of the same kind (device, direction {}) ended meanwhile; the longest of them lasted {longest}.",
            group.permission
        )?;
    }
    Ok(())
}
