//! `oche trace filter`: chooses what a running guest's trace records, through the guest's RAM file.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use oche_trace::control::Control;
use oche_types::dart::stream::{DartId, MAX_DARTS};
use oche_types::event::Kind;
use oche_types::selection::Selection;

use super::memory::TraceMemory;
use crate::output::to_standard_output;

/// Arguments of `oche trace filter`.
#[derive(Debug, Args)]
#[command(after_help = "\
Orders, each one argument; what none of them names stays as it is:
  start | stop                       record every kind | no event at all
  'kinds all' | 'kinds map,unmap'    these kinds only
  'streams all' | 'streams 0:1,1:*'  these streams only, as DART:STREAM
  'iova all' | 'iova 0xbff00000-0xbfffffff'
                                     this range only, both ends included
  'snapshot off' | 'snapshot 256 [streams LIST] [iova RANGE]'
                                     so many bytes of each page that a device may begin to read or has ended to write
  'callers on' | 'callers off'       who called for the maps and unmaps of each flush: on by default
  'watch off' | 'watch 0xbff00000-0xbff00fff [streams LIST]'
                                     one more range (of four) whose every load and store by a CPU is recorded

An event that names no stream, or no IOVA, passes a choice of these. What is left out is counted, and each change
is an event of the trace.

Examples:
  oche trace filter --ram FILE                              what is recorded now
  oche trace filter --ram FILE 'kinds map,unmap' 'streams 0:1'
  oche trace filter --ram FILE 'kinds all' 'streams all'    everything again")]
pub struct FilterArguments {
    /// Use this RAM file of the guest
    #[arg(long, value_name = "FILE")]
    ram: PathBuf,
    /// Change these settings; without any, print what is recorded
    orders: Vec<String>,
}

impl FilterArguments {
    /// Carries out the order.
    ///
    /// # Errors
    ///
    /// The RAM file cannot be read or written, no Oche is in it, or an order makes no sense.
    pub fn run(&self) -> Result<()> {
        let recorded = describe(&change(&self.ram, &self.orders)?);
        to_standard_output(|out| writeln!(out, "{recorded}"))
    }
}

/// Carries out `orders` on the trace in the RAM file `ram`; all of them or none. Returns what is
/// recorded then.
///
/// # Errors
///
/// As for [`FilterArguments::run`].
pub fn change(ram: &Path, orders: &[String]) -> Result<Control> {
    let mut options = File::options();
    options.read(true).write(!orders.is_empty());
    let file =
        options.open(ram).with_context(|| format!("opening the RAM file {}", ram.display()))?;
    let memory = if orders.is_empty() {
        TraceMemory::find(&file)?
    } else {
        TraceMemory::find_writable(&file)?
    };
    let Some(memory) = memory else {
        bail!("{}: no trace directory in it (is Oche running there?)", ram.display());
    };
    let mut control = Control::current(&memory)
        .ok_or_else(|| anyhow!("another process is changing the filter"))?;
    for order in orders {
        control.apply(order).map_err(|error| anyhow!("`{order}`: {error}"))?;
    }
    if !orders.is_empty() {
        control.publish(&memory);
    }
    Ok(control)
}

/// `control` as the lines that would set it.
pub fn describe(control: &Control) -> String {
    let kinds = match control.events.kinds() {
        u64::MAX => "kinds all".into(),
        0 => "stop".into(),
        kinds => {
            let names: Vec<&str> = Kind::ALL
                .into_iter()
                .filter(|kind| kinds >> kind.number() & 1 != 0)
                .map(Kind::name)
                .collect();
            format!("kinds {}", names.join(","))
        }
    };
    let snapshot = match control.snapshot_bytes {
        0 => "snapshot off".into(),
        bytes => format!("snapshot {bytes} {}", selection(&control.snapshots).join(" ")),
    };
    let mut lines = vec![kinds];
    lines.extend(selection(control.events.selection()));
    lines.push(snapshot);
    lines.push(if control.has_callers { "callers on" } else { "callers off" }.into());
    let watches = control.watched().map(|watch| {
        let [streams, range] = selection(watch);
        format!("watch {} {streams}", range.trim_start_matches("iova "))
    });
    lines.extend(watches);
    if control.watched().next().is_none() {
        lines.push("watch off".into());
    }
    lines.join("\n")
}

fn selection(selection: &Selection) -> [String; 2] {
    let entries = |dart: DartId| {
        let set = selection.streams[dart.index()];
        let dart = dart.index();
        match set.0 {
            u16::MAX => vec![format!("{dart}:*")],
            _ => set.iter().map(|stream| format!("{dart}:{}", stream.index())).collect(),
        }
    };
    let streams: Vec<String> = (0..MAX_DARTS).filter_map(DartId::new).flat_map(entries).collect();
    let streams =
        if selection.streams == Selection::ALL.streams { "all".into() } else { streams.join(",") };
    let range = match (selection.first, selection.last) {
        (0, u64::MAX) => "all".into(),
        (first, last) => format!("{first:#x}-{last:#x}"),
    };
    [format!("streams {streams}"), format!("iova {range}")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::memory::tests::Hypervisor;
    use oche_trace::control::ControlReader;

    fn orders(orders: &[&str]) -> Vec<String> {
        orders.iter().map(|order| (*order).to_string()).collect()
    }

    #[test]
    fn what_is_ordered_reaches_the_hypervisor_and_shows() {
        let mut hypervisor = Hypervisor::new(1, 8);
        hypervisor.boot(0);
        let mut reader = ControlReader::default();
        assert_eq!(
            describe(&change(&hypervisor.ram, &[]).unwrap()),
            "kinds all\nstreams all\niova all\nsnapshot off\ncallers on\nwatch off"
        );
        assert_eq!(reader.changed(&hypervisor), None, "looking changes nothing");
        let asked = orders(&[
            "kinds map,unmap",
            "streams 0:1,1:*",
            "iova 0x1000-0x2fff",
            "snapshot 64",
            "callers off",
            "watch 0x4000-0x4fff streams 2:3",
        ]);
        let control = change(&hypervisor.ram, &asked).unwrap();
        assert_eq!(reader.changed(&hypervisor), Some((1, control)));
        assert_eq!(
            describe(&control),
            "kinds map,unmap\nstreams 0:1,1:*\niova 0x1000-0x2fff\nsnapshot 64 streams all iova all\ncallers off\n\
             watch 0x4000-0x4fff streams 2:3"
        );
        let error =
            change(&hypervisor.ram, &orders(&["stop", "nonsense"])).unwrap_err().to_string();
        assert!(error.contains("`nonsense`") && !error.contains('\n'), "{error}");
        assert_eq!(reader.changed(&hypervisor), None, "all or none");
    }

    #[test]
    fn without_oche_there_is_nothing_to_filter() {
        let hypervisor = Hypervisor::new(1, 8);
        let error = change(&hypervisor.ram, &orders(&["stop"])).unwrap_err().to_string();
        assert!(error.contains("no trace directory"), "{error}");
    }
}
