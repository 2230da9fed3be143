//! `THIRD-PARTY.md` lists the crates that are linked, with the licence of each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use oche::{command, el2, workspace};

/// Licence expressions by the name of their crate.
type Licences = BTreeMap<String, BTreeSet<String>>;

/// The crates of others that `packages` link on `target`, or on the host, from the lock file. What
/// only macros are made of is not linked.
fn linked(packages: &[&str], target: Option<&str>) -> Licences {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace::root()).args(["tree", "--locked", "--no-dedupe"]);
    cargo.args(["--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}|{l}"]);
    cargo.args(packages.iter().flat_map(|package| ["--package", package]));
    cargo.args(target.iter().flat_map(|target| ["--target", target]));
    licences_of_tree(&command::text(&mut cargo, "cargo tree").unwrap())
}

/// Reads lines of the form `name version|licence`; a crate of this workspace has its folder behind
/// the version, and is left out.
fn licences_of_tree(tree: &str) -> Licences {
    let mut licences = Licences::new();
    let lines = tree.lines().filter_map(|line| line.rsplit_once('|'));
    for (package, licence) in lines.filter(|(package, _)| !package.contains(" (")) {
        let name = package.split(' ').next().unwrap_or(package);
        licences.entry(name.to_owned()).or_default().insert(licence.to_owned());
    }
    licences
}

/// Reads the rows of the first table in `section`.
fn licences_of_table(section: &str) -> Licences {
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"));
    let rows = rows.filter_map(|row| row.split_once("` | "));
    rows.map(|(name, licence)| (name.to_owned(), BTreeSet::from([licence.to_owned()]))).collect()
}

/// The licences that an expression offers; `/` is the older form of `OR`.
fn choices(expression: &str) -> BTreeSet<String> {
    expression.replace('/', " OR ").split(" OR ").map(|one| one.trim().to_owned()).collect()
}

/// The differences between the crates that are linked and those that are listed.
fn differences(linked: &Licences, listed: &Licences) -> Vec<String> {
    let mut differences = Vec::new();
    for (name, expressions) in linked {
        let Some(listed) = listed.get(name) else {
            differences.push(format!("{name} is linked and not listed"));
            continue;
        };
        let of = |all: &BTreeSet<String>| all.iter().map(|one| choices(one)).collect();
        let (is, should): (BTreeSet<_>, BTreeSet<_>) = (of(listed), of(expressions));
        if is != should {
            differences.push(format!("{name} is listed as {listed:?}, and is {expressions:?}"));
        }
    }
    let gone = listed.keys().filter(|name| !linked.contains_key(*name));
    differences.extend(gone.map(|name| format!("{name} is listed and not linked")));
    differences
}

#[test]
fn every_crate_that_is_linked_is_listed_with_its_licence() {
    let text = fs::read_to_string(workspace::root().join("THIRD-PARTY.md")).unwrap();
    let (_, tables) = text.split_once("\n## In the images for EL2\n").unwrap();
    let (images, tools) = tables.split_once("\n## In `oche` and `cargo xtask`").unwrap();

    let in_images = linked(&[el2::PACKAGE, "oche-m1", "oche-m1-probe"], Some(el2::TARGET));
    assert!(in_images.contains_key("fdt"), "cargo tree gives {in_images:?}");
    let mut in_tools = linked(&["oche", "xtask"], None);
    assert!(in_tools.contains_key("clap"), "cargo tree gives {in_tools:?}");
    // The second table has what the first has not.
    in_tools.retain(|name, _| !in_images.contains_key(name));

    let mut wrong = differences(&in_images, &licences_of_table(images));
    wrong.extend(differences(&in_tools, &licences_of_table(tools)));
    assert!(wrong.is_empty(), "THIRD-PARTY.md:\n{}", wrong.join("\n"));
}

#[test]
fn a_crate_that_is_missing_or_superfluous_or_has_another_licence_is_found() {
    let tree = "oche-el2 v0.1.0 (/tree/hyp/el2)|MIT OR Apache-2.0\nfdt v0.1.5|MPL-2.0\n\
                log v0.4.35|MIT OR Apache-2.0\naarch64-cpu v11.2.0|MIT/Apache-2.0\n";
    let linked = licences_of_tree(tree);
    let wrong = |table: &str| differences(&linked, &licences_of_table(table));
    let log = "| `log` | MIT OR Apache-2.0 |\n";
    let rest = "| crate | licence |\n|---|---|\n| `aarch64-cpu` | Apache-2.0 OR MIT |\n";
    let fdt = "| `fdt` | MPL-2.0 |\n";
    assert_eq!(wrong(&format!("{rest}{fdt}{log}")), Vec::<String>::new());
    assert_eq!(wrong(&format!("{rest}{log}")), ["fdt is linked and not listed"]);
    let spin = "| `spin` | MIT |\n";
    assert_eq!(wrong(&format!("{rest}{fdt}{log}{spin}")), ["spin is listed and not linked"]);
    let other = "| `log` | MIT |\n";
    let expected = "log is listed as {\"MIT\"}, and is {\"MIT OR Apache-2.0\"}";
    assert_eq!(wrong(&format!("{rest}{fdt}{other}")), [expected]);
}
