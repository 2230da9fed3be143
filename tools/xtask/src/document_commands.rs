//! The commands that the documents name.
//!
//! A unit test parses every `cargo xtask` and `oche` command with the parser of that program. The
//! step "Commands of the documents" of `cargo xtask test` runs the cheap ones.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use oche::workspace;

mod command;
mod scan;
#[cfg(test)]
mod tests;

pub(crate) use command::{DocumentCommand, Program};
pub(crate) use scan::commands_in;

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
