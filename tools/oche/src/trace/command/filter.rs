//! The options that choose events.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use clap::Args;
use oche_trace::directory::DartEntry;
use oche_types::dart::stream::STREAMS;
use oche_types::event::Kind;

use super::super::output::OutputFilter;
use super::super::reader::TraceFile;

/// Which events are shown.
#[derive(Debug, Args)]
pub(super) struct FilterOptions {
    /// Show only these kinds of events, by name, separated by commas (map,unmap,io_page_fault,...)
    #[arg(long, value_delimiter = ',', value_parser = parse_kind)]
    kind: Vec<Kind>,
    /// Show only events of this DART, by number
    #[arg(long)]
    dart: Option<u8>,
    /// Show only events of this stream, by number
    #[arg(long)]
    stream: Option<u8>,
    /// Show only events of this CPU, by number
    #[arg(long)]
    cpu: Option<u8>,
    /// Show only events of devices whose name contains this
    #[arg(long)]
    device: Option<String>,
}

impl FilterOptions {
    /// The filter, for `trace`, which must know a device of the name that is asked for.
    pub(super) fn filter(&self, trace: &TraceFile) -> Result<OutputFilter> {
        if let Some(wanted) = &self.device {
            let names = trace.sessions.iter().flat_map(|session| session.description.names());
            let names: BTreeSet<&str> = names.collect();
            if !names.iter().any(|name| name.contains(wanted.as_str())) {
                let names: Vec<&str> = names.into_iter().collect();
                bail!("no device's name contains {wanted}; the trace names {}", names.join(", "));
            }
        }
        let sessions = || trace.sessions.iter();
        if let Some(wanted) = self.dart {
            let known = |dart: &DartEntry| dart.dart.index() == usize::from(wanted);
            if !sessions().any(|session| session.description.darts.iter().any(known)) {
                bail!("there is no DART {wanted} in the trace");
            }
        }
        if let Some(wanted) = self.stream.filter(|stream| usize::from(*stream) >= STREAMS) {
            bail!("there is no stream {wanted}: a DART has {STREAMS}, from 0 on");
        }
        if let Some(wanted) = self.cpu
            && sessions().all(|session| session.cpus() <= usize::from(wanted))
        {
            bail!("no event in the trace is of CPU {wanted}");
        }
        Ok(OutputFilter {
            kinds: self.kind.clone(),
            dart: self.dart,
            stream: self.stream,
            cpu: self.cpu,
            device: self.device.clone(),
        })
    }
}

fn parse_kind(name: &str) -> Result<Kind, String> {
    Kind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
        let names: Vec<&str> = Kind::ALL.into_iter().map(Kind::name).collect();
        format!("there is no such kind of event; there are {}", names.join(", "))
    })
}
