//! A mutant: a seeded fault, kept as a patch file with a short header.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum as _;

use super::run::RunSet;

/// Where the patch files are, from the top of the tree.
pub(super) const FOLDER: &str = "tests/mutants";
/// How the names of the patch files end.
const EXTENSION: &str = "patch";
/// The lines of the header begin so.
const BREAKS: &str = "Breaks: ";
const RUNS: &str = "Runs: ";
/// The diff begins with this line.
const DIFF: &str = "diff --git ";

/// One seeded fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mutant {
    /// The name of its file without the extension.
    pub(super) name: String,
    /// What goes wrong for a guest.
    pub(super) breaks: String,
    /// The tests that must detect it.
    pub(super) runs: RunSet,
    /// The change, as a unified diff of `git`.
    pub(super) diff: String,
}

/// A hunk of a diff.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hunk {
    /// The file, from the top of the tree.
    pub(super) file: String,
    /// The lines that it expects there, context included.
    pub(super) before: String,
    /// The lines that it removes.
    pub(super) removed: String,
}

/// All mutants of the tree at `root`: in the order of their runs, then by name.
///
/// # Errors
///
/// A file cannot be read, or is not a mutant; the error names it.
pub(super) fn read_all(root: &Path) -> Result<Vec<Mutant>> {
    let folder = root.join(FOLDER);
    let entries =
        fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut mutants = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new(EXTENSION)) {
            mutants.push(Mutant::read(&path)?);
        }
    }
    mutants.sort_by(|a, b| (a.runs, &a.name).cmp(&(b.runs, &b.name)));
    Ok(mutants)
}

impl Mutant {
    /// The patch file of the mutant `name`, from the top of the tree.
    pub(super) fn path(name: &str) -> PathBuf {
        Path::new(FOLDER).join(format!("{name}.{EXTENSION}"))
    }

    /// Reads a patch file.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&name, &text).with_context(|| path.display().to_string())
    }

    /// Reads the text of the patch file of the mutant `name`.
    pub(super) fn parse(name: &str, text: &str) -> Result<Self> {
        let start = text.find(&format!("\n{DIFF}")).context("there is no diff")?;
        let (header, diff) = text.split_at(start + 1);
        let field = |key: &str| {
            let value = header.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
            value.filter(|value| !value.is_empty()).with_context(|| format!("no line `{key}...`"))
        };
        let runs = RunSet::from_str(field(RUNS)?, false).map_err(|error| anyhow!(error))?;
        let breaks = field(BREAKS)?.to_owned();
        Ok(Self { name: name.to_owned(), breaks, runs, diff: diff.to_owned() })
    }

    /// The text of its patch file.
    pub(super) fn text(&self) -> String {
        format!("{BREAKS}{}\n{RUNS}{}\n\n{}", self.breaks, self.runs.name(), self.diff)
    }

    /// The files that it changes.
    pub(super) fn files(&self) -> BTreeSet<String> {
        hunks(&self.diff).into_iter().map(|hunk| hunk.file).collect()
    }

    /// The files and lines that it changes, without line numbers and context.
    pub(super) fn change(&self) -> String {
        let is_part = |line: &&str| line.starts_with(['+', '-']);
        self.diff.split_inclusive('\n').filter(is_part).collect()
    }

    /// Checks that each hunk has exactly one place in the tree at `root`.
    ///
    /// # Errors
    ///
    /// A hunk has none or several.
    pub(super) fn check(&self, root: &Path) -> Result<()> {
        let hunks = hunks(&self.diff);
        if hunks.is_empty() {
            bail!("{}: the diff changes nothing", Self::path(&self.name).display());
        }
        for Hunk { file, before, .. } in hunks {
            let source = fs::read_to_string(root.join(&file)).unwrap_or_default();
            let places = count(&source, &before);
            if places != 1 {
                bail!(
                    "{}: the lines that it changes occur {places} times in {file}, not once. Run \
                     `cargo xtask mutants --refresh --only {}`; if it cannot help, make the change \
                     by hand and run `cargo xtask mutants --add {1}`",
                    Self::path(&self.name).display(),
                    self.name,
                );
            }
        }
        Ok(())
    }
}

/// How often the whole lines `lines` occur in `source`.
pub(super) fn count(source: &str, lines: &str) -> usize {
    let starts = std::iter::once(0).chain(source.match_indices('\n').map(|(at, _)| at + 1));
    starts.filter(|start| source.get(*start..).is_some_and(|rest| rest.starts_with(lines))).count()
}

/// The hunks of a diff.
pub(super) fn hunks(diff: &str) -> Vec<Hunk> {
    let mut hunks: Vec<Hunk> = Vec::new();
    let (mut file, mut is_in_hunk) = ("", false);
    for line in diff.split_inclusive('\n') {
        if line.starts_with(DIFF) {
            is_in_hunk = false;
        } else if let Some(path) = line.strip_prefix("+++ b/").filter(|_| !is_in_hunk) {
            file = path.trim_end();
        } else if line.starts_with("@@ ") {
            is_in_hunk = true;
            hunks.push(Hunk { file: file.to_owned(), ..Hunk::default() });
        } else if let Some(hunk) = hunks.last_mut().filter(|_| is_in_hunk) {
            if let Some(line) = line.strip_prefix([' ', '-']) {
                hunk.before.push_str(line);
            }
            hunk.removed.push_str(line.strip_prefix('-').unwrap_or_default());
        }
    }
    hunks
}
