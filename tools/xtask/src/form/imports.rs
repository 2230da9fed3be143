//! Imports between the files of a crate go one way.
//!
//! Two files that import each other can only be read, tested and moved together. This test follows
//! the `mod` declarations of every crate of the workspace, takes each file's `use` declarations and
//! paths (those of test code left out), and fails if a file is on a cycle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use oche::workspace;

mod scan;

use scan::{Names, scan};

/// The source of files: the tree on disk, or a few that a test makes up.
trait Files {
    fn read(&self, path: &Path) -> Option<String>;
}

struct Disk(PathBuf);

impl Files for Disk {
    fn read(&self, path: &Path) -> Option<String> {
        fs::read_to_string(self.0.join(path)).ok()
    }
}

impl Files for BTreeMap<&str, &str> {
    fn read(&self, path: &Path) -> Option<String> {
        self.get(path.to_str()?).map(|text| (*text).to_owned())
    }
}

/// The module tree below one root file.
#[derive(Default)]
struct Modules {
    /// The file of each module; the root's path is empty.
    file_of: BTreeMap<Vec<String>, PathBuf>,
    found: Vec<(PathBuf, Names)>,
}

impl Modules {
    fn of(files: &impl Files, root: &Path) -> Self {
        let mut modules = Self::default();
        let folder = root.parent().unwrap_or(Path::new("")).to_owned();
        modules.add(files, root, &folder, Vec::new());
        modules
    }

    /// Adds `file`, which is the module `path` and has the files of its children in `folder`.
    fn add(&mut self, files: &impl Files, file: &Path, folder: &Path, path: Vec<String>) {
        let text =
            files.read(file).unwrap_or_else(|| panic!("there is no file {}", file.display()));
        let found = scan(&text, &path);
        for module in found.modules.iter().chain([&path]) {
            self.file_of.insert(module.clone(), file.to_owned());
        }
        for (child, place) in &found.children {
            if let Some(place) = place {
                let file = file.parent().unwrap_or(Path::new("")).join(place);
                let folder = file.parent().unwrap_or(Path::new("")).to_owned();
                self.add(files, &file, &folder, child.clone());
                continue;
            }
            let own: PathBuf = child.iter().skip(path.len()).collect();
            let flat = folder.join(&own).with_extension("rs");
            let nested = folder.join(&own).join("mod.rs");
            let file = if files.read(&flat).is_some() { flat } else { nested };
            self.add(files, &file, &folder.join(&own), child.clone());
        }
        self.found.push((file.to_owned(), found));
    }

    /// The file of the module that `path` begins with.
    fn resolve(&self, path: &[String]) -> Option<&PathBuf> {
        (0..=path.len()).rev().find_map(|end| self.file_of.get(path.get(..end)?))
    }

    /// The files that each file imports.
    fn imports(&self) -> BTreeMap<&Path, BTreeSet<&Path>> {
        let mut imports: BTreeMap<&Path, BTreeSet<&Path>> = BTreeMap::new();
        for (file, found) in &self.found {
            let to = imports.entry(file).or_default();
            for (module, path) in &found.paths {
                let target =
                    self.absolute(module, path).and_then(|path| self.resolve(&path).cloned());
                let known =
                    target.and_then(|target| self.found.iter().find(|(other, _)| *other == target));
                to.extend(known.map(|(other, _)| other.as_path()).filter(|other| other != file));
            }
        }
        imports
    }

    /// `path` as written in `module`, from the crate's root; `None` where it leads out of the
    /// crate.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<Vec<String>> {
        let mut base = module.to_vec();
        let mut rest = path;
        match rest.first()?.as_str() {
            "crate" => {
                base.clear();
                rest = rest.get(1..)?;
            }
            "self" => rest = rest.get(1..)?,
            "super" => {
                while rest.first().is_some_and(|name| name == "super") {
                    base.pop()?;
                    rest = rest.get(1..)?;
                }
            }
            name => {
                base.push(name.to_owned());
                if !self.file_of.contains_key(&base) {
                    return None;
                }
                rest = rest.get(1..)?;
            }
        }
        base.extend_from_slice(rest);
        Some(base)
    }
}

/// The files of `imports` from which a way leads back to them.
fn on_cycles<'a>(imports: &BTreeMap<&'a Path, BTreeSet<&'a Path>>) -> BTreeSet<&'a Path> {
    let leads_back = |start: &'a Path| {
        let mut seen = BTreeSet::new();
        let mut open = vec![start];
        while let Some(file) = open.pop() {
            for next in imports.get(file).into_iter().flatten() {
                if *next == start {
                    return true;
                }
                if seen.insert(*next) {
                    open.push(next);
                }
            }
        }
        false
    };
    imports.keys().copied().filter(|file| leads_back(file)).collect()
}

/// The files on a cycle below `root`.
fn cycles(files: &impl Files, root: &str) -> BTreeSet<String> {
    let modules = Modules::of(files, Path::new(root));
    on_cycles(&modules.imports()).iter().map(|file| file.display().to_string()).collect()
}

/// The root files of every crate of the workspace.
fn roots(top: &Path) -> Vec<String> {
    let manifest = fs::read_to_string(top.join("Cargo.toml")).expect("the workspace's manifest");
    let members = manifest.split_once("\nmembers = [").expect("members").1;
    let members = members.split_once(']').expect("the end of the members").0;
    let mut roots = Vec::new();
    for member in members.split('"').skip(1).step_by(2) {
        for root in ["src/lib.rs", "src/main.rs"].map(|root| format!("{member}/{root}")) {
            roots.extend(top.join(&root).exists().then_some(root));
        }
        for folder in
            ["src/bin", "tests", "benches", "examples"].map(|folder| format!("{member}/{folder}"))
        {
            for entry in fs::read_dir(top.join(&folder)).into_iter().flatten() {
                let name =
                    entry.expect("an entry").file_name().into_string().expect("a name in UTF-8");
                let nested = format!("{folder}/{name}/main.rs");
                roots.extend(top.join(&nested).exists().then_some(nested));
                roots.extend(name.ends_with(".rs").then(|| format!("{folder}/{name}")));
            }
        }
    }
    roots
}

#[test]
fn no_file_is_on_a_cycle_of_imports() {
    let top = workspace::root();
    let roots = roots(&top);
    let engine = "hyp/engine/src/lib.rs";
    assert!(roots.iter().any(|root| root == engine), "{engine} is not among {roots:?}");
    let disk = Disk(top);
    let found: Vec<String> = roots.iter().flat_map(|root| cycles(&disk, root)).collect();
    assert!(found.is_empty(), "files that import each other in a cycle: {found:#?}");
}

#[test]
fn a_cycle_through_three_files_is_found_and_a_file_beside_it_is_not() {
    let files = BTreeMap::from([
        ("src/lib.rs", "mod a;\nmod b { pub mod c; }\nmod beside;\npub use a::A;"),
        ("src/a.rs", "use crate::b::c::{self, C};\npub struct A(C);"),
        ("src/b/c.rs", "pub mod deep;\npub struct C(self::deep::D);"),
        ("src/b/c/deep.rs", "pub struct D(super::super::super::a::A);"),
        ("src/beside.rs", "use crate::{A, b::c::C};"),
    ]);
    let expected = ["src/a.rs", "src/b/c.rs", "src/b/c/deep.rs"].map(str::to_owned);
    assert_eq!(cycles(&files, "src/lib.rs"), BTreeSet::from(expected));
}

#[test]
fn a_file_that_a_module_has_elsewhere_is_looked_at() {
    let files = BTreeMap::from([
        ("src/lib.rs", "#[path = \"far/file.rs\"]\npub(crate) mod a;\nmod b;"),
        ("src/far/file.rs", "mod part;\nuse crate::b::B;\npub struct A(B);"),
        ("src/far/part.rs", "pub struct Part(super::A);"),
        ("src/b.rs", "use crate::a::part::Part;\npub struct B(Part);"),
    ]);
    let expected = ["src/b.rs", "src/far/file.rs", "src/far/part.rs"].map(str::to_owned);
    assert_eq!(cycles(&files, "src/lib.rs"), BTreeSet::from(expected));
}

#[test]
fn tests_comments_texts_and_other_crates_import_nothing() {
    let files = BTreeMap::from([
        ("src/lib.rs", "pub mod a;\npub mod b;\n#[cfg(test)]\nmod tests;"),
        (
            "src/a.rs",
            "use crate::b::B;\n#[cfg(test)]\nmod tests { use super::*; use crate::tests::help; }",
        ),
        (
            "src/b.rs",
            "use core::a::A;\n// use crate::a::A;\n/* crate::a */\n/// [`A`](crate::a::A)\npub struct B;\n\
             const T: &str = \"crate::a::A\"; const R: &str = r#\"\"crate::a::A\"#; const Q: char = '\"';\n\
             fn f<'a>(_: &'a str) {}\n#[cfg(test)]\nmod tests { use crate::a::A; }",
        ),
        ("src/tests.rs", "use crate::a;"),
    ]);
    assert_eq!(cycles(&files, "src/lib.rs"), BTreeSet::new());
}

#[test]
fn a_parent_that_imports_from_its_child_and_the_child_from_it_are_a_cycle() {
    let files = BTreeMap::from([
        ("src/main.rs", "mod parent;\nfn main() { parent::child::run() }"),
        ("src/parent.rs", "pub mod child;\nuse child::Part;\npub struct Whole(Part);"),
        ("src/parent/child.rs", "use super::Whole;\npub struct Part;\npub fn run() {}"),
    ]);
    let expected = ["src/parent.rs", "src/parent/child.rs"].map(str::to_owned);
    assert_eq!(cycles(&files, "src/main.rs"), BTreeSet::from(expected));
}
