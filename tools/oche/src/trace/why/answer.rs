//! The answer, and how it is written for people.

use std::io::{self, Write};

use oche_trace::text::Clock;
use schemars::JsonSchema;
use serde::Serialize;

use super::super::description::labelled;
use super::super::words::seconds;

/// The answer to `oche trace why`.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Answer {
    /// The address.
    pub iova: String,
    /// The first lines of the answer.
    pub sentences: Vec<String>,
    /// By device: its history at the address.
    pub devices: Vec<DeviceAnswer>,
}

/// The history of one device at the address.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct DeviceAnswer {
    /// The device.
    pub device: String,
    /// The driver that the guest has bound to it, where the trace has that.
    pub driver: Option<String>,
    /// The DART's number.
    pub dart: usize,
    /// The stream's number.
    pub stream: usize,
    /// The moment explained, in nanoseconds since Oche's start.
    pub at_ns: u64,
    /// Whether the page was mapped then.
    pub is_mapped: bool,
    /// The answer, in sentences.
    pub sentences: Vec<String>,
    /// How often the page was mapped.
    pub times_mapped: u64,
    /// The mappings of the page up to the moment and the first one after it, oldest first; at most
    /// the last few.
    pub history: Vec<Past>,
    /// Other mappings of the same guest page at that time.
    pub overlaps: Vec<Overlap>,
    /// Accesses that were refused in the page, red zones hit, mappings refused; at most the last
    /// few.
    pub incidents: Vec<Incident>,
}

/// A mapping of the page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Past {
    /// When it was mapped, in nanoseconds since Oche's start; `null` where that was before the
    /// trace.
    pub from_ns: Option<u64>,
    /// When it was unmapped; `null` where it was not.
    pub until_ns: Option<u64>,
    /// The guest page's address.
    pub gpa: String,
    /// `rw`, `r-` or `-w`.
    pub permission: Option<&'static str>,
    /// Its placement.
    pub placement: Option<&'static str>,
    /// The guest's code and CPU that mapped it.
    pub mapped_by: Option<String>,
    /// The guest's code and CPU that unmapped it.
    pub unmapped_by: Option<String>,
}

/// Another mapping of the same guest page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Overlap {
    /// Its device.
    pub device: String,
    /// Its address.
    pub iova: String,
    /// `rw`, `r-` or `-w`.
    pub permission: &'static str,
    /// Since when, in nanoseconds since Oche's start.
    pub since_ns: u64,
}

/// Something else that happened at the page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Incident {
    /// The time in nanoseconds since Oche's start.
    pub time_ns: u64,
    /// `io_page_fault`, `red_zone` or `refused`.
    pub event: &'static str,
    /// The event in words.
    pub what: String,
}

/// Writes the answer for people.
///
/// # Errors
///
/// Those of `out`.
pub fn write_answer(answer: &Answer, out: &mut impl Write) -> io::Result<()> {
    for sentence in &answer.sentences {
        writeln!(out, "{sentence}")?;
    }
    for (index, device) in answer.devices.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        writeln!(
            out,
            "{} of {} (DART {} stream {})",
            answer.iova,
            labelled(&device.device, device.driver.as_deref()),
            device.dart,
            device.stream
        )?;
        for sentence in &device.sentences {
            writeln!(out, "  {sentence}")?;
        }
        if !device.history.is_empty() {
            writeln!(
                out,
                "\n  {:>16}   {:<16}  may placement  guest page     mapped by; unmapped by",
                "from", "until"
            )?;
        }
        for past in &device.history {
            let time = |time: Option<u64>, none: &str| time.map_or(none.to_owned(), nanoseconds);
            writeln!(
                out,
                "  {:>16} - {:<16}  {:<3} {:<10} {:<14} {}; {}",
                time(past.from_ns, "before"),
                time(past.until_ns, "still mapped"),
                past.permission.unwrap_or("?"),
                past.placement.unwrap_or("?"),
                past.gpa,
                past.mapped_by.as_deref().unwrap_or("?"),
                past.unmapped_by.as_deref().unwrap_or("-")
            )?;
        }
        for incident in &device.incidents {
            writeln!(
                out,
                "  {:>16}   {}: {}",
                nanoseconds(incident.time_ns),
                incident.event,
                incident.what
            )?;
        }
    }
    Ok(())
}

fn nanoseconds(time: u64) -> String {
    seconds(Clock { counter_hz: 1_000_000_000, start_ticks: 0 }, time)
}
