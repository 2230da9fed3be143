//! What a release has besides programs: manual pages, completions and documents.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap_complete::Shell;
use oche::workspace;

use super::archive::{Entries, add};

/// The kinds of files that documents consist of.
const DOCUMENT_ENDINGS: [&str; 5] = ["md", "png", "svg", "json", "sql"];

/// Adds a manual page for `oche` and for each of its commands.
///
/// # Errors
///
/// They cannot be written to memory.
pub(super) fn add_manual(entries: &mut Entries) -> Result<()> {
    let mut command = oche::cli::parser().disable_help_subcommand(true);
    command.build();
    add_page(entries, command)
}

fn add_page(entries: &mut Entries, command: clap::Command) -> Result<()> {
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        add_page(entries, command.clone())?;
    }
    let page = clap_mangen::Man::new(command);
    let mut text = Vec::new();
    page.render(&mut text).context("a manual page")?;
    add(entries, &format!("man/man1/{}", page.get_filename()), text);
    Ok(())
}

/// Adds the completions of each shell, by the name under which the shell looks for it.
pub(super) fn add_completions(entries: &mut Entries) {
    let shells =
        [(Shell::Bash, "bash/oche"), (Shell::Zsh, "zsh/_oche"), (Shell::Fish, "fish/oche.fish")];
    for (shell, path) in shells {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut oche::cli::parser(), "oche", &mut text);
        add(entries, &format!("completions/{path}"), text);
    }
}

/// Adds the documents and Oche's own licences, where the links between them expect them.
///
/// # Errors
///
/// One cannot be read.
pub(super) fn add_documents(entries: &mut Entries) -> Result<()> {
    let root = workspace::root();
    for entry in list(&root)? {
        let is_licence = entry.starts_with("LICENSE-");
        if is_licence || entry.ends_with(".md") {
            add(entries, &entry, read(&root.join(&entry))?);
        }
    }
    add_folder(entries, &root, "docs")
}

fn add_folder(entries: &mut Entries, root: &Path, folder: &str) -> Result<()> {
    for name in list(&root.join(folder))? {
        let path = format!("{folder}/{name}");
        if root.join(&path).is_dir() {
            add_folder(entries, root, &path)?;
        } else if DOCUMENT_ENDINGS.iter().any(|ending| path.ends_with(&format!(".{ending}"))) {
            add(entries, &path, read(&root.join(&path))?);
        }
    }
    Ok(())
}

/// The names in a folder.
fn list(folder: &Path) -> Result<Vec<String>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{add_completions, add_documents, add_manual};
    use crate::dist::archive::Entries;

    #[test]
    fn each_command_has_a_page_and_each_shell_its_completions() {
        let mut entries = Entries::new();
        add_manual(&mut entries).expect("pages");
        add_completions(&mut entries);
        add_documents(&mut entries).expect("documents");
        for path in [
            "man/man1/oche.1",
            "man/man1/oche-pack.1",
            "man/man1/oche-trace-why.1",
            "completions/zsh/_oche",
            "README.md",
            "LICENSE-MIT",
            "docs/m1.md",
            "docs/adr/README.md",
            "docs/schema/check.json",
            "docs/perfetto/faults.sql",
        ] {
            assert!(entries.contains_key(path), "{path}: {:?}", entries.keys());
        }
        let page = entries.get("man/man1/oche-pack.1").map(|entry| entry.bytes.clone());
        let page = String::from_utf8(page.unwrap_or_default()).expect("text");
        assert!(page.contains("boot.bin") || page.contains("\\-\\-kernel"), "{page}");
    }
}
