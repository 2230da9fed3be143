//! Live capture in Wireshark: `oche` as an external capture program (extcap). Source: Wireshark's
//! manual page extcap(4).
//!
//! Wireshark starts the program of the folder that `oche trace pcapng --wireshark-profile` puts a
//! link in: once to list interfaces, once for an interface's options, and once to capture. A
//! capture writes the packets of `oche trace pcapng` into a pipe as events happen.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use rustix::event::{PollFd, PollFlags, poll};

use super::description::TraceDescription;
use super::filter::options::EventOptions;
use super::follow::LiveSource;
use super::ordered::{Ordered, Sink};
use super::pcapng::Packets;
use super::reader::TraceItem;
use super::signals::Signals;
use super::symbols::SymbolOptions;
use guests::Guest;

pub mod guests;

/// The interface that waits for a guest, or reads the file that is named.
const ANY: &str = "oche";
/// What the interface of one guest begins with; the number of its process follows.
const ONE: &str = "oche-";
/// The number of link type USER0. Source: the registry of link types of tcpdump.org.
const USER0: u16 = 147;
/// Time between two looks for a guest.
const SEARCH: Duration = Duration::from_millis(200);

/// Capture a running guest's DMA events for Wireshark, which starts this by itself.
#[derive(Debug, Parser)]
#[command(name = "oche-extcap", version = crate::version::SHORT)]
struct ExtcapArguments {
    /// List the interfaces
    #[arg(long)]
    extcap_interfaces: bool,
    /// Wireshark's version
    #[arg(long, value_name = "VERSION")]
    extcap_version: Option<String>,
    /// The interface that is meant
    #[arg(long, value_name = "NAME")]
    extcap_interface: Option<String>,
    /// List the interface's link types
    #[arg(long)]
    extcap_dlts: bool,
    /// List the interface's options
    #[arg(long)]
    extcap_config: bool,
    /// Refused: what is captured is chosen by the interface's options
    #[arg(long, value_name = "FILTER")]
    extcap_capture_filter: Option<String>,
    /// Capture
    #[arg(long)]
    capture: bool,
    /// Write packets into this pipe
    #[arg(long, value_name = "PATH")]
    fifo: Option<PathBuf>,
    /// Read this RAM file of a guest, growing trace, or port [default: the first guest that runs]
    #[arg(long, value_name = "FILE")]
    source: Option<PathBuf>,
    #[command(flatten)]
    events: EventOptions,
    #[command(flatten)]
    symbols: SymbolOptions,
}

/// Whether the arguments of a process, its own name included, are those of an extcap program.
pub fn is_asked_for(mut arguments: impl Iterator<Item = OsString>) -> bool {
    arguments.any(|argument| argument.to_string_lossy().starts_with("--extcap-"))
}

/// Does what Wireshark asks for by `arguments`, this program's own name included.
///
/// # Errors
///
/// The arguments make no sense, the guest cannot be read, or the pipe cannot be written.
pub fn main(arguments: impl Iterator<Item = OsString>) -> Result<()> {
    let asked = ExtcapArguments::try_parse_from(without_empty(arguments));
    let asked = asked.unwrap_or_else(|error| error.exit());
    if asked.extcap_capture_filter.is_some() {
        bail!("there are no capture filters: choose devices, kinds and IOVAs in the options");
    }
    if asked.extcap_interfaces {
        return print(&interfaces(&guests::running()));
    }
    let name = asked.extcap_interface.as_deref().context("--extcap-interface is missing")?;
    if asked.extcap_dlts {
        return print(&format!("dlt {{number={USER0}}}{{name=USER0}}{{display=Oche's events}}\n"));
    }
    if asked.extcap_config {
        return print(&options(name));
    }
    if !asked.capture {
        bail!("nothing to do: --capture, --extcap-dlts or --extcap-config is missing");
    }
    let fifo = asked.fifo.as_deref().context("--fifo is missing")?;
    capture(name, fifo, &asked)
}

/// Options that are left empty in Wireshark's dialogue are given as empty words.
fn without_empty(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept: Vec<OsString> = Vec::new();
    for argument in arguments {
        let before = kept.last().is_some_and(|last| last.to_string_lossy().starts_with("--"));
        match argument.is_empty() {
            true if before => drop(kept.pop()),
            true => {}
            false if argument.to_string_lossy().ends_with('=') => {}
            false => kept.push(argument),
        }
    }
    kept
}

fn print(text: &str) -> Result<()> {
    crate::output::to_standard_output(|out| out.write_all(text.as_bytes()))
}

/// The list of interfaces, in the grammar of extcap.
fn interfaces(guests: &[Guest]) -> String {
    let mut text = format!(
        "extcap {{version={}}}{{display=Oche, DMA events}}\n\
         interface {{value={ANY}}}{{display=Oche: the next guest, or a file}}\n",
        env!("CARGO_PKG_VERSION")
    );
    for guest in guests {
        let line = format!(
            "interface {{value={ONE}{0}}}{{display=Oche: {1}, process {0}}}\n",
            guest.process,
            plain(&guest.name)
        );
        text.push_str(&line);
    }
    text
}

/// A name without what has a meaning in extcap's grammar.
fn plain(name: &str) -> String {
    name.chars().map(|char| if "{}\n\r".contains(char) { '_' } else { char }).collect()
}

/// The options of an interface, in the grammar of extcap.
fn options(interface: &str) -> String {
    let source = (
        "--source",
        "File or port",
        "fileselect",
        "A guest's RAM file, a trace that is being written, or the port in the guest. \
         Empty: the first guest that runs",
    );
    let others = [
        ("--device", "Device", "string", "Devices whose name contains this"),
        ("--stream", "Streams", "string", "Streams, such as 1,0:2,1:*"),
        (
            "--iova",
            "IOVA",
            "string",
            "An address or a range, in hexadecimal: 0xfff00000-0xffffffff",
        ),
        ("--kind", "Kinds", "string", "Kinds of events, such as map,unmap,io_page_fault"),
        ("--caller", "Caller", "string", "Functions whose name contains this (with symbols)"),
        ("--symbols", "Symbols", "fileselect", "A copy of the guest's /proc/kallsyms"),
    ];
    let first = (interface == ANY).then_some(source);
    let mut text = String::new();
    for (number, (call, display, kind, tooltip)) in first.into_iter().chain(others).enumerate() {
        let must_exist = if kind == "fileselect" { "{mustexist=false}" } else { "" };
        let line = format!(
            "arg {{number={number}}}{{call={call}}}{{display={display}}}{{type={kind}}}\
             {must_exist}{{tooltip={tooltip}}}\n"
        );
        text.push_str(&line);
    }
    text
}

/// Writes packets into `fifo` as events happen: until a signal, until its reader has gone, or until
/// the guest has.
fn capture(interface: &str, fifo: &Path, asked: &ExtcapArguments) -> Result<()> {
    let symbols = asked.symbols.load()?;
    let filter = asked.events.unchecked(&symbols, None)?;
    let signals = Signals::catch()?;
    let opening = || format!("opening the pipe {}", fifo.display());
    let pipe = File::options().write(true).open(fifo).with_context(opening)?;
    let has_reader_gone = || has_reader_gone(&pipe);
    let is_over = || signals.is_caught() || has_reader_gone();
    let guest = match (&asked.source, interface.strip_prefix(ONE)) {
        (Some(_), _) => None,
        (None, Some(process)) => {
            let process = process.parse().ok();
            let found = guests::running().into_iter().find(|guest| Some(guest.process) == process);
            Some(found.with_context(|| {
                format!("the guest of {interface} does not run any more: list the interfaces anew")
            })?)
        }
        (None, None) => match wait_for_guest(&is_over) {
            Some(guest) => Some(guest),
            None => return Ok(()),
        },
    };
    let ram = guest.as_ref().map(|guest| guest.ram.as_path());
    let path = asked.source.as_deref().or(ram).context("there is no guest")?;
    let mut source = LiveSource::open(path)?;
    let out = io::BufWriter::with_capacity(1 << 16, &pipe);
    let mut packets = Ordered::new(Live { packets: Packets::new(&filter, &symbols, out)? });
    // A guest that is over is not waited for: its memory has gone with it.
    let has_guest_gone = || guest.as_ref().is_some_and(|guest| !guest.is_running());
    let followed = packets.follow(&mut source, || is_over() || has_guest_gone())?;
    match followed.and_then(|()| packets.sink.packets.finish()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("writing to the pipe"),
    }
}

fn wait_for_guest(is_over: &impl Fn() -> bool) -> Option<Guest> {
    while !is_over() {
        if let Some(guest) = guests::running().into_iter().next() {
            return Some(guest);
        }
        std::thread::sleep(SEARCH);
    }
    None
}

/// Whether a pipe has no reader any more: an idle guest writes nothing by which it would show.
/// Source: Linux's manual page poll(2), POLLERR.
fn has_reader_gone(pipe: &File) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::empty())];
    // No time at all: it only looks.
    let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    let [polled] = match poll(&mut polled, Some(&none)) {
        Ok(_) => polled,
        Err(_) => return false,
    };
    polled.revents().contains(PollFlags::ERR)
}

/// Packets of a guest that runs.
struct Live<'a, W: Write> {
    packets: Packets<'a, W>,
}

impl<W: Write> Sink for Live<'_, W> {
    fn begin(&mut self, description: TraceDescription) -> io::Result<()> {
        self.packets.begin(&description, description.machine.wall_clock_nanoseconds.unwrap_or(0))
    }

    fn item(&mut self, item: TraceItem) -> io::Result<()> {
        self.packets.item(&item)
    }

    fn flush(&mut self, _: bool) -> io::Result<()> {
        self.packets.flush()
    }
}

#[cfg(test)]
mod tests;
