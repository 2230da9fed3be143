//! The form that rustfmt and clippy do not check: the length of lines and of files, and cycles of
//! imports.
//!
//! Two lists name the files that are longer, one file a line. Both are exact: a new file fails the
//! test, and so does a file of a list that is no longer too long or is gone. `cargo xtask fix` sets
//! `OCHE_UPDATE`, with which the tests take such files off the lists first.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use oche::workspace;

mod columns;
mod imports;

use columns::long_lines;

/// Lines of a file, at most: more is hard to read as one piece.
const MAX_LINES: usize = 500;
/// Columns of a line, at most; as rustfmt's `max_width`.
const MAX_COLUMNS: usize = 100;

/// The list of files with more than [`MAX_LINES`].
const LONG_FILES: &str = "tools/xtask/src/form/long_files.txt";
/// The list of files with lines of more than [`MAX_COLUMNS`].
const LONG_LINES: &str = "tools/xtask/src/form/long_lines.txt";

/// The Rust files of the tree below `folder` with their texts, by their path from `root`.
fn sources(root: &Path, folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                sources(root, &path, found);
            }
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path.strip_prefix(root).unwrap().display().to_string(), text));
        }
    }
}

fn all_sources() -> Vec<(String, String)> {
    let root = workspace::root();
    let mut found = Vec::new();
    sources(&root, &root, &mut found);
    assert!(found.len() > 100, "the sources were not found");
    found
}

/// The names of the files in `list`, of which `found` are too long.
fn read_list(list: &str, found: &BTreeSet<&str>) -> String {
    let path = workspace::root().join(list);
    let mut text = fs::read_to_string(&path).unwrap();
    if std::env::var_os("OCHE_UPDATE").is_some() {
        let kept = text.lines().filter(|line| found.contains(line));
        text = kept.map(|line| format!("{line}\n")).collect();
        fs::write(&path, &text).unwrap();
    }
    text
}

/// The differences between the files `found` and the file names of `list`.
fn differences<'a>(found: &BTreeSet<&'a str>, list: &'a str) -> Vec<String> {
    let known: BTreeSet<&str> = list.lines().collect();
    let new = found.difference(&known).map(|file| format!("{file} is too long"));
    let gone = known.difference(found);
    let gone = gone.map(|file| format!("{file} is not too long any more: take it off the list"));
    new.chain(gone).collect()
}

#[test]
fn files_have_at_most_500_lines_except_for_those_of_the_list() {
    let sources = all_sources();
    let is_long = |text: &str| text.lines().count() > MAX_LINES;
    let long = sources.iter().filter(|(_, text)| is_long(text)).map(|(file, _)| file.as_str());
    let long: BTreeSet<&str> = long.collect();
    let list = read_list(LONG_FILES, &long);
    let differences = differences(&long, &list);
    assert!(differences.is_empty(), "{LONG_FILES}:\n{}", differences.join("\n"));
}

#[test]
fn lines_have_at_most_100_columns_except_for_the_files_of_the_list() {
    let sources = all_sources();
    let numbers = |text: &str| long_lines(text, MAX_COLUMNS);
    let long = sources.iter().filter(|(_, text)| !numbers(text).is_empty());
    let long: BTreeSet<&str> = long.map(|(file, _)| file.as_str()).collect();
    let list = read_list(LONG_LINES, &long);
    let mut lines = Vec::new();
    for (file, text) in &sources {
        if !list.lines().any(|known| known == file) {
            lines.extend(numbers(text).iter().map(|number| format!("{file}:{number}")));
        }
    }
    let differences = differences(&long, &list);
    assert!(
        differences.is_empty(),
        "{LONG_LINES}:\n{}\n{}",
        differences.join("\n"),
        lines.join("\n")
    );
}

#[test]
fn a_list_of_exceptions_is_exact() {
    let list = "a.rs\nb.rs\n";
    assert_eq!(differences(&BTreeSet::from(["a.rs", "b.rs"]), list), Vec::<String>::new());
    assert_eq!(differences(&BTreeSet::from(["a.rs", "b.rs", "c.rs"]), list).len(), 1);
    assert_eq!(differences(&BTreeSet::from(["a.rs"]), list).len(), 1);
}
