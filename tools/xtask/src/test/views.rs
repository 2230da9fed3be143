//! A trace's views as other programs see them: Perfetto's schema, Wireshark's dissector, a browser.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use oche::progress::Step;
use oche::trace::filter::EventFilter;
use oche::trace::made::{with_every_error, with_losses};
use oche::trace::pcapng::write_pcapng;
use oche::trace::perfetto::write_perfetto;
use oche::trace::reader::TraceFile;
use oche::trace::symbols::Symbols;
use oche::trace::wireshark::Folders;
use oche::{command, workspace};
use tempfile::TempDir;

use super::live_capture::built_oche;
use crate::environment;
use crate::perfetto::Perfetto;

pub(crate) mod babeltrace;
mod devtools;
mod python;
pub(crate) mod queries;
mod report;
mod trace_processor;

/// Makes each view of a made-up trace that has every error in it, and has it read.
///
/// # Errors
///
/// A program does not understand what it is given, or shows something else than is in the trace.
pub(super) fn run(step: &Step) -> Result<String> {
    environment::prepare_views(step)?;
    let folder = workspace::target().join("test").join("views");
    workspace::create_folder(&folder)?;
    // Kept for people: the worked examples in docs/trace-examples.md are made from it.
    fs::write(folder.join("trace.oche"), with_every_error().bytes())?;
    let trace = with_every_error().open();
    step.detail("Perfetto");
    let tools = Perfetto::fetch(step)?;
    let perfetto = perfetto(&tools, &trace, &folder)?;
    step.detail("Perfetto's trace processor");
    let answers = queries::compare(&tools, &folder.join("trace.oche"), &folder)?;
    step.detail("Wireshark");
    let packets = wireshark(&trace, &folder, step)?;
    step.detail("babeltrace2");
    let babeltrace = babeltrace(&folder)?;
    step.detail("chromium");
    report::run(&trace, &folder)?;
    let python = python::run(&folder.join("trace.oche"), step)?;
    Ok(format!(
        "{perfetto}, {answers}; {packets} packets dissected; babeltrace2 reads {babeltrace}; \
         the report shows every error; Python {python} agrees"
    ))
}

fn perfetto(tools: &Perfetto, trace: &TraceFile<Vec<u8>>, folder: &Path) -> Result<String> {
    let path = folder.join("trace.perfetto-trace");
    write_perfetto(
        trace,
        0,
        &EventFilter::default(),
        &Symbols::default(),
        &mut File::create(&path)?,
    )?;
    let script = folder.join("perfetto_schema.py");
    fs::write(&script, include_str!("views/perfetto_schema.py"))?;
    let output = command::text(
        Command::new(&tools.python).arg(&script).arg(&path),
        "reading with Perfetto's schema",
    )?;
    let found = output.trim().strip_prefix("ok: ");
    Ok(found.context("the reader of Perfetto's schema does not print `ok: `")?.to_owned())
}

/// Exports the made-up trace and one with losses, and has babeltrace2 agree with both.
fn babeltrace(folder: &Path) -> Result<String> {
    let whole = babeltrace::compare(&folder.join("trace.oche"), &folder.join("trace.ctf"))?;
    let lossy = folder.join("lossy.oche");
    fs::write(&lossy, with_losses().bytes())?;
    let read = babeltrace::compare(&lossy, &folder.join("lossy.ctf"))?;
    if (whole.lost, read.lost) != (0, 12) {
        bail!("babeltrace2 counts {} and {} lost events, not 0 and 12", whole.lost, read.lost);
    }
    Ok(format!("{} events", whole.events()))
}

/// Lets tshark, with the installed profile and dissector alone, dissect the trace; returns the
/// number of packets.
fn wireshark(trace: &TraceFile<Vec<u8>>, folder: &Path, step: &Step) -> Result<usize> {
    // Kept for people; tshark reads a copy, where any user may.
    let path = folder.join("trace.pcapng");
    write_pcapng(
        trace,
        0,
        &EventFilter::default(),
        &Symbols::default(),
        &mut File::create(&path)?,
    )?;
    let tshark = Tshark::new(&path, step)?;
    for (filter, fields, expected) in PACKETS {
        let printed = tshark.fields(filter, fields)?;
        if printed != *expected {
            bail!("tshark prints {printed:?} for `{filter}` instead of {expected:?}");
        }
    }
    // A map and its unmap name each other.
    let unmaps = tshark.fields("oche.mapped_in", &["frame.number", "oche.mapped_in"])?;
    let maps = tshark.fields("oche.unmapped_in", &["oche.unmapped_in", "frame.number"])?;
    if unmaps.len() < 200 || unmaps != maps {
        bail!(
            "of {} unmaps that name their map, {} maps name their unmap",
            unmaps.len(),
            maps.len()
        );
    }
    let wrong = tshark.fields("_ws.malformed || _ws.lua.error || !oche", &["frame.number"])?;
    if !wrong.is_empty() {
        bail!("tshark does not understand packets {}", wrong.join(", "));
    }
    Ok(tshark.fields("oche", &["frame.number"])?.len())
}

/// What tshark prints for some packets of the made-up trace: a display filter, fields, and one line
/// for each packet, with tabs between the fields.
const PACKETS: &[(&str, &[&str], &[&str])] = &[
    (
        "oche.event == \"io_page_fault\"",
        &[
            "oche.device",
            "oche.iova",
            "oche.write",
            "oche.fault.meaning",
            "oche.dart",
            "oche.stream",
        ],
        &[
            "nvme\t0x00000000ffe00040\t0\tno entry for the page\t0\t1",
            "nvme\t0x00000000ffe08010\t1\tthe page may not be written\t0\t1",
            "e1000e\t0x0000000012345678\t0\tno first-level entry\t0\t2",
        ],
    ),
    (
        "oche.event == \"snapshot\"",
        &["oche.iova", "oche.gpa", "oche.payload", "oche.snapshot.at_unmap"],
        &["0x00000000ffe18000\t0x000000000000b000\t4f63686520776173\t1"],
    ),
    (
        "oche.event == \"red_zone\"",
        &["oche.iova", "oche.bytes", "frame.interface_name"],
        &["0x00000000ffe19000\t8\tdart0"],
    ),
    (
        "oche.event == \"unmap\" && oche.iova == 0xffe00000",
        &["oche.mapped_for", "oche.pc", "oche.cpu"],
        &["0.000050000\t0xffff800008000c74\t0"],
    ),
];

/// tshark on one trace, with a home of its own, which anyone may read.
struct Tshark {
    home: TempDir,
    is_root: bool,
}

impl Tshark {
    /// Installs the dissector and the profile, and copies `trace` beside them.
    fn new(trace: &Path, step: &Step) -> Result<Self> {
        let home = tempfile::tempdir().context("a folder for tshark")?;
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755))?;
        Folders::find(Some(home.path()))?.install(&built_oche(step)?)?;
        fs::copy(trace, home.path().join("trace.pcapng"))?;
        let user = command::text(Command::new("id").arg("-u"), "finding the user")?;
        Ok(Self { home, is_root: user.trim() == "0" })
    }

    /// Prints `fields` of the packets that `filter` lets pass, one line a packet.
    fn fields(&self, filter: &str, fields: &[&str]) -> Result<Vec<String>> {
        // Wireshark 4.4 ignores a user's dissectors if root starts it.
        let mut tshark = match self.is_root {
            true => Command::new("setpriv"),
            false => Command::new("tshark"),
        };
        if self.is_root {
            tshark.args(["--reuid=65534", "--regid=65534", "--clear-groups", "tshark"]);
        }
        tshark.env("HOME", self.home.path()).current_dir(self.home.path());
        for name in ["XDG_CONFIG_HOME", "WIRESHARK_CONFIG_DIR", "WIRESHARK_PLUGIN_DIR"] {
            tshark.env_remove(name);
        }
        tshark.args(["-2", "-C", "Oche", "-r", "trace.pcapng"]);
        tshark.args(["-Y", filter, "-T", "fields"]);
        tshark.args(fields.iter().flat_map(|field| ["-e", field]));
        Ok(command::text(&mut tshark, "tshark")?.lines().map(with_digits).collect())
    }
}

/// A line of fields with flags as Wireshark 4.0 prints them: 4.4 prints `True` and `False`.
fn with_digits(line: &str) -> String {
    let digit = |field| match field {
        "True" => "1",
        "False" => "0",
        other => other,
    };
    line.split('\t').map(digit).collect::<Vec<_>>().join("\t")
}
