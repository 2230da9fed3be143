//! `oche trace symbols`: the names inside a trace, printed or added to.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::super::format::{ChunkHeader, ChunkKind, MAX_PAYLOAD_BYTES, chunk};
use super::super::names::{Function, Names};
use super::super::reader::TraceFile;
use super::super::symbols::read_map;
use super::files::{is_standard, open};
use crate::output::to_standard_output;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  oche trace symbols boot.oche                        the names that it has, as /proc/kallsyms has them
  oche trace symbols boot.oche --add kallsyms         keep a copy of the guest's /proc/kallsyms in it

A recording takes the names from the guest by itself where it can. --add is for the rest: copy the file as root in
the same boot of the guest (`cat /proc/kallsyms > kallsyms`), for a kernel chooses its addresses anew at each boot.
What is not known, and why, is printed on standard error.")]
pub(super) struct SymbolsArguments {
    /// The trace file, or - for standard input
    file: PathBuf,
    /// Which boot of Oche to print, counted from 1 [default: the last]
    #[arg(long, value_name = "NUMBER", conflicts_with = "add")]
    boot: Option<usize>,
    /// Add the names in this copy of the guest's /proc/kallsyms to the trace's last boot
    #[arg(long, value_name = "FILE")]
    add: Option<PathBuf>,
}

impl SymbolsArguments {
    pub(super) fn run(&self) -> Result<()> {
        let trace = open(&self.file)?;
        match &self.add {
            Some(from) => self.add(&trace, &read_map(from)?),
            None => self.print(&trace),
        }
    }

    fn add(&self, trace: &TraceFile, names: &Names) -> Result<()> {
        let name = self.file.display();
        if is_standard(&self.file) {
            bail!("names are added to a file: save standard input first");
        }
        if trace.sessions.last().is_none_or(|session| session.end.is_none()) {
            bail!("{name}: the recording has no end, so nothing can be added: use --symbols");
        }
        let payload = names.to_payload();
        if payload.len() as u64 > MAX_PAYLOAD_BYTES {
            bail!("these are more names than a trace keeps: use --symbols");
        }
        let header = ChunkHeader { kind: ChunkKind::Names as u32, ..ChunkHeader::default() };
        // A file that is cut off within the chunk is read as if it had none.
        File::options()
            .append(true)
            .open(&self.file)
            .and_then(|mut file| file.write_all(&chunk(header, &payload)))
            .with_context(|| format!("adding names to {name}"))?;
        crate::message!("{name}: {} functions added", names.functions.len());
        Ok(())
    }

    fn print(&self, trace: &TraceFile) -> Result<()> {
        let boots = trace.sessions.len();
        let number = self.boot.unwrap_or(boots);
        let Some(session) = number.checked_sub(1).filter(|session| *session < boots) else {
            bail!("boot {number} does not exist: the trace has {boots}");
        };
        let all = trace.names(session)?;
        if all.is_empty() {
            bail!(
                "{}: no names are in it: add them with --add, or name code with --symbols",
                self.file.display()
            );
        }
        for names in &all {
            if !names.kernel.is_empty() {
                crate::message!("{}", names.kernel);
            }
            for missing in &names.missing {
                crate::message!("oche: not known: {missing}");
            }
        }
        to_standard_output(|out| {
            let mut functions: Vec<&Function> =
                all.iter().flat_map(|names| &names.functions).collect();
            functions.sort_by_key(|function| function.address);
            functions.dedup();
            for Function { address, name, module } in functions {
                match module {
                    Some(module) => writeln!(out, "{address:016x} t {name}\t[{module}]")?,
                    None => writeln!(out, "{address:016x} t {name}")?,
                }
            }
            Ok(())
        })
    }
}
