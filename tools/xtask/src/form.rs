//! The form that rustfmt and clippy do not check: the length of lines and of files, and cycles of
//! imports.

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

#[test]
fn files_have_at_most_500_lines() {
    let sources = all_sources();
    let long = sources.iter().filter(|(_, text)| text.lines().count() > MAX_LINES);
    let long: Vec<&str> = long.map(|(file, _)| file.as_str()).collect();
    assert!(long.is_empty(), "files of more than {MAX_LINES} lines: {long:#?}");
}

#[test]
fn lines_have_at_most_100_columns() {
    let mut long = Vec::new();
    for (file, text) in all_sources() {
        let numbers = long_lines(&text, MAX_COLUMNS);
        long.extend(numbers.iter().map(|number| format!("{file}:{number}")));
    }
    assert!(long.is_empty(), "lines of more than {MAX_COLUMNS} columns: {long:#?}");
}
