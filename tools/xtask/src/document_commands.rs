//! The commands that the documents name.
//!
//! A unit test parses every `cargo xtask` and `oche` command with the parser of that program. The
//! step "Commands of the documents" of `cargo xtask test` runs the cheap ones.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use oche::workspace;

mod scan;
#[cfg(test)]
mod tests;

pub(crate) use scan::commands_in;

/// A command of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DocumentCommand {
    /// The document, from the top folder.
    pub(crate) document: String,
    /// The line on which the command begins.
    pub(crate) line: usize,
    pub(crate) program: Program,
    /// What follows the program's name.
    pub(crate) arguments: Vec<String>,
    /// Whether it stands in a code block and is complete. A code span in prose may name a command
    /// without its arguments.
    pub(crate) is_complete: bool,
}

/// The programs whose commands are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Xtask,
    Oche,
    CargoTest,
}

impl Program {
    /// How a command of it begins; the longer of two that begin alike comes first.
    const PREFIXES: [(&'static [&'static str], Self); 4] = [
        (&["cargo", "xtask"], Self::Xtask),
        (&["cargo", "run", "-p", "oche", "--"], Self::Oche),
        (&["cargo", "test"], Self::CargoTest),
        (&["oche"], Self::Oche),
    ];
}

impl std::fmt::Display for DocumentCommand {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let program = match self.program {
            Program::Xtask => "cargo xtask",
            Program::Oche => "oche",
            Program::CargoTest => "cargo test",
        };
        let Self { document, line, arguments, .. } = self;
        write!(formatter, "{document}:{line}: {program} {}", arguments.join(" "))
    }
}

/// The commands of all documents: the Markdown files at the top and below `docs`.
///
/// # Errors
///
/// A document cannot be read.
pub(crate) fn all() -> Result<Vec<DocumentCommand>> {
    let root = workspace::root();
    let mut documents = Vec::new();
    add_documents(&root, &mut documents)?;
    for folder in ["docs", "docs/adr", "docs/hardware"] {
        add_documents(&root.join(folder), &mut documents)?;
    }
    documents.sort();
    let mut commands = Vec::new();
    for path in documents {
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
        commands.extend(commands_in(&name, &text));
    }
    Ok(commands)
}

fn add_documents(folder: &Path, documents: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    // The changelog names commands as they were.
    documents.extend(paths.filter(|path| {
        path.extension().is_some_and(|extension| extension == "md")
            && path.file_name().is_some_and(|name| name != "CHANGELOG.md")
    }));
    Ok(())
}
