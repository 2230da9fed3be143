//! The documents: their links lead somewhere, and what they name of the code exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use oche::workspace;

mod failures;
mod third_party;

/// All files of the tree whose names end in `.extension`, what was built apart.
fn files_with(extension: &str, folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !path.is_symlink() {
            if name != "target" && name != ".git" {
                files_with(extension, &path, files);
            }
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
}

/// The lines of a Markdown text that are no code, with code spans blanked out.
fn prose(text: &str) -> String {
    let mut is_fenced = false;
    let mut may_be_code = true;
    let mut lines = String::new();
    for line in text.lines() {
        is_fenced ^= line.starts_with("```");
        // An indented block is code unless it continues a list item.
        let is_code =
            is_fenced || line.starts_with("```") || (may_be_code && line.starts_with("    "));
        if !is_code {
            may_be_code = line.is_empty() || line.starts_with('#');
            for (index, part) in line.split('`').enumerate() {
                lines.push_str(if index % 2 == 0 { part } else { "`" });
            }
        }
        lines.push('\n');
    }
    lines
}

/// The destinations of the links and pictures in a Markdown text.
fn links(text: &str) -> Vec<String> {
    let text = prose(text);
    let behind = text.split("](").skip(1);
    behind.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

/// The anchors of the headings in a Markdown text, as forges make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept =
            heading.chars().filter(|one| one.is_alphanumeric() || matches!(one, ' ' | '-' | '_'));
        let anchor: String = kept.map(|one| if one == ' ' { '-' } else { one }).collect();
        let again = (1..).map(|number| format!("{anchor}-{number}"));
        let free =
            std::iter::once(anchor.clone()).chain(again).find(|name| !anchors.contains(name));
        anchors.extend(free);
    }
    anchors
}

/// The errors of the relative links of the document at `path`.
fn broken_links(path: &Path, text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    for link in links(text) {
        if link.contains("://") {
            continue;
        }
        let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
        let target = match file {
            "" => path.to_owned(),
            file => path.parent().unwrap().join(file),
        };
        if file.starts_with('/') || !target.exists() {
            broken.push(format!("{}: no file {link}", path.display()));
        } else if !anchor.is_empty() {
            let own = (file.is_empty()).then(|| text.to_owned());
            let text = own.unwrap_or_else(|| fs::read_to_string(&target).unwrap());
            if !anchors(&text).contains(anchor) {
                broken.push(format!("{}: no heading {link}", path.display()));
            }
        }
    }
    broken
}

#[test]
fn every_relative_link_of_a_document_leads_to_a_file_and_a_heading() {
    let mut documents = Vec::new();
    files_with("md", &workspace::root(), &mut documents);
    assert!(documents.len() > 20, "the documents were not found");
    let broken: Vec<String> = documents
        .iter()
        .flat_map(|path| broken_links(path, &fs::read_to_string(path).unwrap()))
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let readme = workspace::root().join("README.md");
    let found = |text: &str| broken_links(&readme, text).len();
    assert_eq!(found("[a](docs/m1.md) [b](docs/m1.md#the-nvme) [c](https://example.org/x)"), 0);
    assert_eq!(found("# Some Heading, `code`\n[a](#some-heading-code)"), 0);
    assert_eq!(found("[a](docs/no-such-file.md)"), 1);
    assert_eq!(found("![a](docs/no-such-picture.png)"), 1);
    assert_eq!(found("[a](docs/m1.md#no-such-heading) and [b](#nor-this)"), 2);
    assert_eq!(found("[a](/README.md)"), 1, "an absolute path leads out of the repository");
    assert_eq!(found("`[a](nothing)`\n\n    [b](nothing)\n\n```\n[c](nothing)\n```\n"), 0);
    assert_eq!(found("- item\n    [goes on](nothing)\n"), 1);
}

/// The files of this tree that code spans of a document name, as paths from the top folder.
fn named_files(text: &str) -> impl Iterator<Item = String> {
    const FOLDERS: [&str; 6] = ["hyp/", "boot/", "platform/", "tests/", "tools/", "docs/"];
    const EXTENSIONS: [&str; 6] = [".rs", ".md", ".sh", ".c", ".toml", ".txt"];
    let spans = text.split('`').skip(1).step_by(2);
    // A test's name may be behind its file's.
    let paths = spans.map(|span| span.split("::").next().unwrap_or(span));
    let paths = paths.filter(|path| FOLDERS.iter().any(|folder| path.starts_with(folder)));
    let paths = paths.filter(|path| EXTENSIONS.iter().any(|extension| path.ends_with(extension)));
    paths.flat_map(|path| match path.split_once('{').zip(path.split_once('}')) {
        Some(((before, rest), (_, after))) => {
            let names = rest.split('}').next().unwrap_or_default().split(',');
            names.map(|name| format!("{before}{name}{after}")).collect()
        }
        None => vec![path.to_owned()],
    })
}

#[test]
fn every_file_of_this_tree_that_a_document_names_exists() {
    let root = workspace::root();
    let mut documents = Vec::new();
    files_with("md", &root, &mut documents);
    let mut missing = Vec::new();
    let mut count = 0;
    for path in documents {
        for file in named_files(&fs::read_to_string(&path).unwrap()) {
            count += 1;
            if !root.join(&file).is_file() {
                missing.push(format!("{} names {file}", path.display()));
            }
        }
    }
    assert!(count > 20, "no document names a file");
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn files_that_documents_name_are_distinguished_from_other_code() {
    let text = "`hyp/src/{a,b}.rs` and `tests/x.rs::name` but not `hyp/engine`, `src/kboot.c` or `cargo test`; hyp/c.rs";
    assert_eq!(
        named_files(text).collect::<Vec<_>>(),
        ["hyp/src/a.rs", "hyp/src/b.rs", "tests/x.rs"]
    );
}

/// The documents that a comment in `source` names, as paths from the top folder.
fn named_documents(source: &str) -> impl Iterator<Item = &str> {
    let spans = source.split('`').filter(|span| span.starts_with("docs/"));
    spans.filter(|span| span.ends_with(".md") && !span.contains(char::is_whitespace))
}

#[test]
fn every_document_that_a_comment_names_exists() {
    let root = workspace::root();
    let mut files = Vec::new();
    files_with("rs", &root, &mut files);
    let mut count = 0;
    for path in files {
        let source = fs::read_to_string(&path).unwrap();
        for document in named_documents(&source) {
            assert!(root.join(document).is_file(), "{} names {document}", path.display());
            count += 1;
        }
    }
    assert!(count > 5, "no comment names a document");
}

#[test]
fn documents_that_comments_name_are_distinguished_from_other_paths() {
    let source =
        "//! See `docs/m1.md`, \"Status\", and QEMU's `docs/specs/edu.txt`; `docs/a b.md` is none.";
    assert_eq!(named_documents(source).collect::<Vec<_>>(), ["docs/m1.md"]);
}

/// The functions that a document names, as `function()` or `Type::function()`.
fn functions(text: &str) -> impl Iterator<Item = &str> {
    let spans = text.split('`').skip(1).step_by(2);
    let names = spans.filter_map(|span| span.strip_suffix("()"));
    names.filter(|name| name.chars().all(|one| one.is_alphanumeric() || matches!(one, '_' | ':')))
}

/// Of `names`, those of which no source declares the function, or the type or module before it.
fn unknown<'a>(names: impl Iterator<Item = &'a str>, sources: &str) -> Vec<&'a str> {
    let declares = |kind: &str, name: &str| {
        sources
            .split(&format!("{kind} {name}"))
            .skip(1)
            .any(|rest| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_'))
    };
    let is_known = |name: &str| {
        let (owner, function) = name.rsplit_once("::").unwrap_or(("", name));
        let kinds = ["struct", "enum", "trait", "mod"];
        declares("fn", function)
            && (owner.is_empty() || kinds.iter().any(|kind| declares(kind, owner)))
    };
    names.filter(|name| !is_known(name)).collect()
}

#[test]
fn every_function_that_the_architecture_names_exists() {
    let mut files = Vec::new();
    files_with("rs", &workspace::root(), &mut files);
    let sources: Vec<String> = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let sources = sources.concat();
    let text = fs::read_to_string(workspace::root().join("docs/architecture.md")).unwrap();
    assert!(functions(&text).count() > 40, "no functions were found");
    assert_eq!(unknown(functions(&text), &sources), Vec::<&str>::new());
}

#[test]
fn a_function_that_does_not_exist_is_found() {
    let sources =
        "struct Engine; mod launch; impl Engine { fn write(&mut self) {} fn written() {} }";
    let text =
        "`Engine::write()` `launch::write()` `writ()` `Motor::write()` `let x = write()` `written`";
    let named: Vec<&str> = functions(text).collect();
    assert_eq!(named, ["Engine::write", "launch::write", "writ", "Motor::write"]);
    assert_eq!(unknown(named.into_iter(), sources), ["writ", "Motor::write"]);
}

/// The terms of a glossary: the first column of its tables, without remarks in parentheses.
fn terms(glossary: &str) -> Vec<String> {
    let rows = glossary.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    let rows = rows.map(|(term, _)| term).filter(|term| *term != "Term");
    let terms = rows.flat_map(|row| row.split(", "));
    let plain = |term: &str| {
        term.split_once(" (").map_or(term, |(term, _)| term).replace('`', "").to_lowercase()
    };
    terms.map(plain).collect()
}

/// The text of a source in lower case, with comments that continue in the next line joined.
fn joined(source: &str) -> String {
    let line = |line: &str| line.trim_start().trim_start_matches(['/', '!']).trim().to_lowercase();
    source.lines().map(line).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_term_of_the_glossary_is_used_in_the_sources() {
    let root = workspace::root();
    let mut files = Vec::new();
    for folder in ["hyp", "boot", "platform", "tests", "tools"] {
        files_with("rs", &root.join(folder), &mut files);
    }
    let read = |path: &PathBuf| joined(&fs::read_to_string(path).unwrap());
    let sources = files.iter().map(read).collect::<String>();
    let terms = terms(&fs::read_to_string(root.join("docs/glossary.md")).unwrap());
    assert!(terms.len() > 50, "the glossary has terms: {terms:?}");
    let unused: Vec<_> = terms.iter().filter(|term| !sources.contains(*term)).collect();
    assert!(unused.is_empty(), "no source uses {unused:?}");
}

#[test]
fn terms_are_found_in_a_glossary_and_across_lines_of_a_comment() {
    let glossary = "| Term | Meaning |\n|---|---|\n| `Owner`, red zone (of a frame) | It. |\n";
    assert_eq!(terms(glossary), ["owner", "red zone"]);
    assert_eq!(joined("    /// A Red\n    /// zone.\nfn f() {}"), "a red zone. fn f() {}");
}
