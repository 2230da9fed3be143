//! The report: a file that grows by whole lines.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

/// Violations that are written at most; each rule and PC counts once.
const MAX_VIOLATIONS: usize = 100;

/// The open report.
#[derive(Debug)]
pub(crate) struct Report {
    file: File,
    symbols: BTreeMap<u64, String>,
    violations: HashSet<(&'static str, u64)>,
    seen: HashSet<String>,
}

impl Report {
    pub(crate) fn create(path: &Path, symbols: Option<&Path>) -> Result<Self, String> {
        let file = File::create(path)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        let mut names = BTreeMap::new();
        if let Some(path) = symbols {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            let entries = text.lines().filter_map(|line| line.split_once(' '));
            names.extend(entries.filter_map(|(address, name)| {
                Some((u64::from_str_radix(address, 16).ok()?, name.to_owned()))
            }));
        }
        Ok(Self { file, symbols: names, violations: HashSet::new(), seen: HashSet::new() })
    }

    /// A rule is broken.
    pub(crate) fn violation(&mut self, rule: &'static str, pc: u64, text: &str) {
        if self.violations.len() < MAX_VIOLATIONS && self.violations.insert((rule, pc)) {
            let line = format!("violation: {rule} at {}: {text}", self.place(pc));
            self.line(&line);
        }
    }

    /// An instruction of this kind is executed.
    pub(crate) fn seen(&mut self, name: &str) {
        if self.seen.insert(name.to_owned()) {
            self.line(&format!("seen: {name}"));
        }
    }

    pub(crate) fn line(&mut self, line: &str) {
        // One write for each line: the file is whole whenever QEMU ends. A disk that is full shows
        // as a missing line.
        let _ = self.file.write_all(format!("{line}\n").as_bytes());
    }

    /// The PC, and the function that it is in.
    pub(crate) fn place(&self, pc: u64) -> String {
        match self.symbols.range(..=pc).next_back() {
            Some((start, name)) => format!("{pc:#x} in {name}+{:#x}", pc - start),
            None => format!("{pc:#x}"),
        }
    }
}
