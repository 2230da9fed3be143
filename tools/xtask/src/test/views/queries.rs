//! The queries of `docs/perfetto`, as Perfetto's own trace processor answers them, against the
//! trace's events.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use oche::trace::TraceFile;
use oche::trace::filter::EventFilter;
use oche::trace::perfetto::write_perfetto;
use oche::trace::symbols::SymbolOptions;
use oche::workspace;

use super::trace_processor::{Row, Table, ask};
use crate::perfetto::{self, Perfetto};
use events::{Events, Mapped, PAGE, address};

mod events;

/// The queries by the names of their files, in the order in which they are compared.
const QUERIES: [(&str, &str); 3] = [
    ("mapped-by-caller", include_str!("../../../../../docs/perfetto/mapped-by-caller.sql")),
    ("still-mapped", include_str!("../../../../../docs/perfetto/still-mapped.sql")),
    ("faults", include_str!("../../../../../docs/perfetto/faults.sql")),
];
/// What the trace processor could not import.
const COMPLAINTS: &str =
    "select name, value from stats where severity in ('error', 'data_loss') and value > 0";
/// Nanoseconds of a second, and of a microsecond.
const SECOND: f64 = 1e9;
const MICROSECOND: f64 = 1e3;

/// Answers that agree with the trace, by the query's name.
pub(crate) struct Answers(Vec<(&'static str, Table)>);

impl Answers {
    /// Fails unless the first row of the query `name` puts the mapping down to code of `module`.
    ///
    /// # Errors
    ///
    /// The answer is empty or names other code.
    pub(crate) fn name(&self, name: &str, module: &str) -> Result<()> {
        let found = self.0.iter().find(|(query, _)| *query == name);
        let (_, table) = found.with_context(|| format!("there is no query {name}"))?;
        let row = table.rows().next().with_context(|| format!("{name}.sql finds nothing"))?;
        match row.text("mapped_by")?.ends_with(module) {
            true => Ok(()),
            false => bail!("{name}.sql does not name a function of {module}: {row:?}"),
        }
    }
}

impl Display for Answers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: usize = self.0.iter().map(|(_, table)| table.rows().count()).sum();
        let version = perfetto::VERSION;
        write!(out, "its trace processor {version} answers {} queries alike", self.0.len())?;
        write!(out, " ({rows} rows)")
    }
}

/// Exports the only boot of the trace at `path`, has the trace processor load it and answer each
/// query, and compares the answers with the trace's events as JSON. Keeps its files in `folder`.
///
/// # Errors
///
/// They differ or are empty, or the trace processor could not import all.
pub(crate) fn compare(tools: &Perfetto, path: &Path, folder: &Path) -> Result<Answers> {
    all_are_compared()?;
    let trace = TraceFile::open(path)?;
    let symbols = SymbolOptions::default().load_for(&trace, Some(0))?;
    let mut exported = Vec::new();
    write_perfetto(&trace, 0, &EventFilter::default(), &symbols, &mut exported)?;
    let queries: Vec<&str> =
        [COMPLAINTS].into_iter().chain(QUERIES.map(|(_, query)| query)).collect();
    let mut tables = ask(tools, exported, &queries, folder)?.into_iter();
    let complaints = tables.next().unwrap_or_default();
    if let Some(complaint) = complaints.rows().next() {
        bail!("Perfetto's trace processor does not import all of the trace: {complaint:?}");
    }
    let answers = Answers(QUERIES.iter().map(|(name, _)| *name).zip(tables).collect());
    let events = Events::read(&trace, &symbols)?;
    for (name, table) in &answers.0 {
        let found = match *name {
            "mapped-by-caller" => same_callers(table, &events),
            "still-mapped" => same_remains(table, &events),
            "faults" => same_faults(table, &events),
            other => bail!("nothing is compared with the answer to {other}.sql"),
        };
        found.with_context(|| format!("Perfetto's trace processor and {name}.sql"))?;
    }
    Ok(answers)
}

/// The folder has no query that is not compared.
fn all_are_compared() -> Result<()> {
    let folder = workspace::root().join("docs/perfetto");
    let listed = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()));
    let names = listed?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let files: BTreeSet<String> = names.collect();
    let known = QUERIES.map(|(name, _)| format!("{name}.sql")).into();
    if files != known {
        bail!("docs/perfetto has {files:?}, and {known:?} are compared");
    }
    Ok(())
}

/// Fails unless both are the same, and something.
fn is_same<T: PartialEq + fmt::Debug>(found: &[T], wanted: &[T]) -> Result<()> {
    if wanted.is_empty() {
        bail!("the trace has nothing to compare");
    }
    let differing = found.iter().zip(wanted).find(|(found, wanted)| found != wanted);
    if let Some((found, wanted)) = differing {
        bail!("the answer is {found:?}, and the events have {wanted:?}");
    }
    match found.len() == wanted.len() {
        true => Ok(()),
        false => bail!("there are {} rows, and the events have {}", found.len(), wanted.len()),
    }
}

/// Bytes by device and function.
fn same_callers(table: &Table, events: &Events) -> Result<()> {
    let mut sums: BTreeMap<(String, String), Sums> = BTreeMap::new();
    for (device, mapped) in events.mappings() {
        let sums = sums.entry((device, function(&mapped.code))).or_default();
        sums.bytes += PAGE;
        match &mapped.until {
            Some((until, _)) => sums.longest_ns = sums.longest_ns.max(until - mapped.since_ns),
            None => sums.still_mapped += PAGE,
        }
    }
    let mut found = BTreeMap::new();
    let mut before = u64::MAX;
    for row in table.rows() {
        let (bytes, still_mapped) = (row.number("bytes")?, row.number("bytes_still_mapped")?);
        let mappings = row.number("mappings")?;
        if bytes > before || !(1..=bytes / PAGE).contains(&mappings) {
            bail!("{row:?} is not in order, or has more mappings than pages");
        }
        before = bytes;
        let key = (row.text("device")?, row.text("mapped_by")?);
        // A buffer is mapped from its first page's map to its last page's unmap, so as long as any
        // page of it or longer; the answer is rounded to 0.1 us.
        let longest_ns = row.scaled("longest_us", MICROSECOND)? + 50;
        let least = sums.get(&key).map_or(0, |sums| sums.longest_ns);
        if longest_ns < least || row.scaled("mean_us", MICROSECOND)? > longest_ns {
            bail!("{row:?} has times that cannot be: a page was mapped for {least} ns");
        }
        found.insert(key, Sums { bytes, still_mapped, longest_ns: least });
    }
    is_same(&Vec::from_iter(found), &Vec::from_iter(sums))
}

/// What a function had mapped for a device.
#[derive(Debug, Default, PartialEq)]
struct Sums {
    bytes: u64,
    still_mapped: u64,
    longest_ns: u64,
}

/// `nvme_map_data+0x1c [nvme]` without the offset.
fn function(code: &str) -> String {
    let Some((name, rest)) = code.split_once("+0x") else { return code.to_owned() };
    rest.split_once(' ').map_or_else(|| name.to_owned(), |(_, module)| format!("{name} {module}"))
}

/// What is still mapped, page by page.
fn same_remains(table: &Table, events: &Events) -> Result<()> {
    let mut found = BTreeSet::new();
    for row in table.rows() {
        let (iova, bytes) = (address(&row.text("iova")?)?, row.number("bytes")?);
        let (device, may, by) = (row.text("device")?, row.text("may")?, row.text("mapped_by")?);
        let first = (row.scaled("since_s", SECOND)?, row.number("outlived")?);
        for page in (iova..iova + bytes).step_by(PAGE as usize) {
            // The first page's time is the buffer's.
            let of_first = (page == iova).then_some(first);
            found.insert((device.clone(), page, may.clone(), by.clone(), of_first));
        }
    }
    let firsts: BTreeSet<(&str, u64)> = found
        .iter()
        .filter(|(.., first)| first.is_some())
        .map(|(device, page, ..)| (device.as_str(), *page))
        .collect();
    let live = |(_, mapped): &(String, &Mapped)| mapped.until.is_none();
    let wanted: BTreeSet<_> = events
        .mappings()
        .filter(live)
        .map(|(device, mapped)| {
            let is_first = firsts.contains(&(device.as_str(), mapped.iova));
            // Pages and not buffers, which are the same for what tests leave mapped.
            let first = is_first.then(|| (mapped.since_ns, events.outlived(mapped)));
            (device, mapped.iova, mapped.may.clone(), mapped.code.clone(), first)
        })
        .collect();
    let (found, wanted): (Vec<_>, Vec<_>) = (found.iter().collect(), wanted.iter().collect());
    is_same(&found, &wanted)
}

/// Each fault, and the mapping that it hit or missed.
fn same_faults(table: &Table, events: &Events) -> Result<()> {
    let found: Vec<[String; 7]> = table.rows().map(fault_row).collect::<Result<_>>()?;
    let wanted = events.faults.iter().map(|fault| {
        let last = events.last_before(fault);
        let gone = last.and_then(|last| last.until.as_ref()).filter(|gone| gone.0 <= fault.time_ns);
        let state = match (last, gone) {
            (None, _) => "never mapped".to_owned(),
            (_, Some(_)) => "unmapped".to_owned(),
            (Some(last), None) => format!("mapped {}", last.may),
        };
        [
            fault.time_ns.to_string(),
            events.device(fault.place),
            format!("{:#x}", fault.iova),
            state,
            gone.map_or(0, |(until, _)| fault.time_ns - until).to_string(),
            last.map_or("-", |last| &last.code).to_owned(),
            gone.map_or("-", |(_, by)| by).to_owned(),
        ]
    });
    is_same(&found, &wanted.collect::<Vec<_>>())
}

fn fault_row(row: Row<'_>) -> Result<[String; 7]> {
    Ok([
        row.scaled("at_s", SECOND)?.to_string(),
        row.text("device")?,
        format!("{:#x}", address(&row.text("iova")?)?),
        row.text("state")?,
        row.scaled("unmapped_for_us", MICROSECOND)?.to_string(),
        row.text("mapped_by")?,
        row.text("unmapped_by")?,
    ])
}

#[cfg(test)]
mod tests {
    use super::function;

    #[test]
    fn a_functions_name_has_no_offset() {
        assert_eq!(function("nvme_map_data+0x1c [nvme]"), "nvme_map_data [nvme]");
        assert_eq!(function("vring_map_one_sg+0x8c"), "vring_map_one_sg");
        assert_eq!(function("0xffff800008000c74"), "0xffff800008000c74");
    }
}
