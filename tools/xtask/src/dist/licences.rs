//! The licences of everything that a release's binaries contain, with their texts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use oche::{command, el2, workspace};
use serde_json::Value;

use super::archive::{Entries, add};
use super::images;

/// How the names of files with licences begin, in capitals.
const NAMES: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];
/// Crates whose packages have no file of their licence, the licence, and where its text is.
const WITHOUT_FILE: [(&str, &str, Place); 2] = [
    ("byteorder_slice", "MIT", Place::Toolchain),
    ("qrcodegen-no-heap", "MIT", Place::FirstComment("src/lib.rs")),
];
/// What the toolchain adds: from the folder of its documents, and the name in the archive.
const OF_TOOLCHAIN: [(&str, &str); 2] = [
    ("COPYRIGHT-library.html", "licences/rust-library.html"),
    ("licenses/OFL-1.1.txt", "licences/noto-sans-mono.txt"),
];
/// The notices of the C library in a static binary for Linux.
const MUSL: &str = include_str!("musl.txt");

/// Where the text of a licence is that has no file of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The manifest names it, and the toolchain has the text.
    Toolchain,
    /// The comment that a source file of the package begins with.
    FirstComment(&'static str),
}

/// A crate of others that is linked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LinkedCrate {
    name: String,
    version: String,
    expression: String,
}

/// Adds one file with the licences of all crates that `oche` for `targets` and the images for EL2
/// link, and those of what the toolchain adds.
///
/// # Errors
///
/// A crate has no text of a licence, or cargo fails.
pub(super) fn add_licences(entries: &mut Entries, targets: &[String]) -> Result<usize> {
    let mut linked = tree(&images::PACKAGES, el2::TARGET)?;
    for target in targets {
        linked.extend(tree(&["oche"], target)?);
    }
    let folders = folders()?;
    let documents = toolchain_documents()?;
    let mut crates = Vec::new();
    for one in &linked {
        let folder = folders.get(&(one.name.clone(), one.version.clone()));
        let folder = folder.with_context(|| format!("cargo does not say where {} is", one.name))?;
        crates.push((one, texts(one, folder, &documents)?));
    }
    add(entries, "THIRD-PARTY-LICENCES.txt", together(&crates));
    for (from, to) in OF_TOOLCHAIN {
        let path = documents.join(from);
        let text =
            fs::read(&path).with_context(|| format!("the toolchain has no {}", path.display()))?;
        add(entries, to, text);
    }
    add(entries, "licences/musl.txt", MUSL);
    Ok(linked.len())
}

/// The crates of others that `packages` link on `target`, from the lock file.
fn tree(packages: &[&str], target: &str) -> Result<BTreeSet<LinkedCrate>> {
    let mut cargo = cargo();
    cargo.args(["tree", "--locked", "--no-dedupe", "--target", target]);
    cargo.args(["--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}|{l}"]);
    cargo.args(packages.iter().flat_map(|package| ["--package", package]));
    Ok(parse_tree(&command::text(&mut cargo, "listing the crates that are linked")?))
}

/// Reads lines such as `log v0.4.35|MIT`; a crate of this workspace has its folder behind the
/// version, and is left out.
fn parse_tree(text: &str) -> BTreeSet<LinkedCrate> {
    let lines = text.lines().filter_map(|line| line.rsplit_once('|'));
    let foreign = lines.filter(|(package, _)| !package.contains(" ("));
    let linked = foreign.filter_map(|(package, expression)| {
        let (name, version) = package.split_once(" v")?;
        let (name, version) = (name.to_owned(), version.to_owned());
        Some(LinkedCrate { name, version, expression: expression.to_owned() })
    });
    linked.collect()
}

/// The folder of each crate's source, by name and version.
fn folders() -> Result<BTreeMap<(String, String), PathBuf>> {
    let mut cargo = cargo();
    cargo.args(["metadata", "--locked", "--format-version", "1"]);
    let metadata: Value =
        serde_json::from_slice(&command::output(&mut cargo, "asking cargo where crates are")?)?;
    let packages = metadata.get("packages").and_then(Value::as_array).context("cargo metadata")?;
    let field = |package: &Value, name: &str| Some(package.get(name)?.as_str()?.to_owned());
    let found = packages.iter().filter_map(|package| {
        let manifest = PathBuf::from(field(package, "manifest_path")?);
        let key = (field(package, "name")?, field(package, "version")?);
        Some((key, manifest.parent()?.to_owned()))
    });
    Ok(found.collect())
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace::root());
    cargo
}

/// The folder in which the toolchain has its own licences.
fn toolchain_documents() -> Result<PathBuf> {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "sysroot"]).current_dir(workspace::root());
    let sysroot = command::text(&mut rustc, "asking for the toolchain's folder")?;
    Ok(Path::new(sysroot.trim()).join("share/doc/rust"))
}

/// The texts of a crate's licences, by file name.
fn texts(linked: &LinkedCrate, folder: &Path, documents: &Path) -> Result<Vec<String>> {
    let mut found = BTreeMap::new();
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_licence(&name) && entry.path().is_file() {
            let text = fs::read(entry.path())
                .with_context(|| format!("cannot read {}", entry.path().display()))?;
            found.insert(name, String::from_utf8_lossy(&text).trim_end().to_owned());
        }
    }
    if !found.is_empty() {
        return Ok(found.into_values().collect());
    }
    let meant = WITHOUT_FILE.iter().find(|(name, ..)| *name == linked.name);
    let Some((name, licence, place)) =
        meant.filter(|(_, licence, _)| linked.expression == *licence)
    else {
        bail!(
            "the package of {} {} ({}) has no file of its licence: see WITHOUT_FILE in \
             tools/xtask/src/dist/licences.rs",
            linked.name,
            linked.version,
            linked.expression
        );
    };
    let read = |path: &Path| {
        fs::read_to_string(path).with_context(|| format!("there is no {}", path.display()))
    };
    let text = match place {
        Place::Toolchain => {
            let text = read(&documents.join("licenses").join(format!("{licence}.txt")))?;
            format!("The manifest of {name} names this licence:\n\n{text}")
        }
        Place::FirstComment(file) => {
            let source = read(&folder.join(file))?;
            let comment = source.split_once("/*").and_then(|(_, rest)| rest.split_once("*/"));
            let text = comment.with_context(|| format!("{file} of {name} has no comment"))?.0;
            let lines =
                text.lines().map(|line| line.trim_start().trim_start_matches('*').trim_start());
            lines.map(str::trim_end).collect::<Vec<_>>().join("\n").trim().to_owned()
        }
    };
    Ok(vec![text.trim_end().to_owned()])
}

fn is_licence(name: &str) -> bool {
    let name = name.to_uppercase();
    // Sources of a module of that name are none.
    NAMES.iter().any(|begin| name.starts_with(begin)) && !name.ends_with(".RS")
}

/// One text: the crates, then each licence once, with those that it is of.
fn together(crates: &[(&LinkedCrate, Vec<String>)]) -> String {
    let mut text = "The crates that Oche's binaries contain, and the texts of their licences.\n\
                    THIRD-PARTY.md says which are in the images for EL2, and where the source of \
                    `fdt` is.\n\n"
        .to_owned();
    let mut of_text: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (linked, texts) in crates {
        let LinkedCrate { name, version, expression } = linked;
        text += &format!("{name} {version}: {expression}\n");
        for licence in texts {
            of_text.entry(licence).or_default().push(format!("{name} {version}"));
        }
    }
    let mut sections: Vec<_> = of_text.into_iter().map(|(text, of)| (of, text)).collect();
    sections.sort();
    for (of, licence) in sections {
        text += &format!("\n{}\n{}\n\n{licence}\n", "=".repeat(80), of.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{LinkedCrate, is_licence, parse_tree, texts, together};
    use std::fs;

    fn linked(name: &str, expression: &str) -> LinkedCrate {
        LinkedCrate { name: name.into(), version: "1.0.0".into(), expression: expression.into() }
    }

    #[test]
    fn a_crate_without_a_text_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("README.md"), "MIT").expect("written");
        let refusal = texts(&linked("spin", "MIT"), folder.path(), folder.path());
        let refusal = refusal.expect_err("refused").to_string();
        assert!(refusal.contains("spin 1.0.0 (MIT)"), "{refusal}");
        fs::write(folder.path().join("LICENSE-MIT"), "text\n").expect("written");
        let found = texts(&linked("spin", "MIT"), folder.path(), folder.path()).expect("found");
        assert_eq!(found, ["text"]);
    }

    #[test]
    fn a_crate_that_is_excused_is_so_under_its_own_licence_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("licenses")).expect("a folder");
        fs::write(folder.path().join("licenses/MIT.txt"), "the text").expect("written");
        let of = |expression| {
            texts(&linked("byteorder_slice", expression), folder.path(), folder.path())
        };
        assert!(of("MIT").expect("found")[0].ends_with("the text"));
        assert!(of("GPL-3.0").is_err());
    }

    #[test]
    fn a_licence_in_a_comment_is_taken_from_there_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("src")).expect("a folder");
        let of = || texts(&linked("qrcodegen-no-heap", "MIT"), folder.path(), folder.path());
        assert!(of().is_err(), "there is no source");
        let source = folder.path().join("src/lib.rs");
        fs::write(&source, "/* \n * Copyright (c) N\n * \n * - free\n */\nfn f() {}\n").expect("");
        assert_eq!(of().expect("found"), ["Copyright (c) N\n\n- free"]);
        fs::write(&source, "fn f() {}\n").expect("written");
        assert!(of().is_err(), "there is no comment");
    }

    #[test]
    fn licences_are_distinguished_from_other_files() {
        for name in ["LICENSE", "LICENSE-MIT", "license.txt", "COPYING", "UNLICENSE", "NOTICE"] {
            assert!(is_licence(name), "{name}");
        }
        for name in ["README.md", "src", "licenses.rs", "Cargo.toml"] {
            assert!(!is_licence(name), "{name}");
        }
    }

    #[test]
    fn each_text_is_there_once_with_all_that_it_is_of() {
        let (one, two, own) = (linked("a", "MIT"), linked("b", "MIT"), linked("c", "Zlib"));
        let crates =
            [(&one, vec!["same".into()]), (&two, vec!["same".into()]), (&own, vec!["own".into()])];
        let text = together(&crates);
        assert_eq!(text.matches("same").count(), 1);
        assert!(text.contains("a 1.0.0, b 1.0.0\n\nsame") && text.contains("c 1.0.0\n\nown"));
    }

    #[test]
    fn crates_of_this_workspace_are_left_out() {
        let tree = "oche v0.1.0 (/tree/tools/oche)|MIT\nfdt v0.1.5|MPL-2.0\nfdt v0.1.5|MPL-2.0\n";
        let found: Vec<_> = parse_tree(tree).into_iter().map(|one| one.name).collect();
        assert_eq!(found, ["fdt"]);
    }
}
