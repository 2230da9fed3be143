//! `docs/contract.md` names tests: each of them exists.

use std::collections::BTreeSet;
use std::path::Path;

use oche::workspace;

/// The tests' names in `folder`, those that begin with an item of the contract.
fn tests_in(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_in(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = std::fs::read_to_string(&path).unwrap();
            let mut lines = source.lines().map(str::trim);
            while lines.by_ref().any(|line| line == "#[test]") {
                let function = lines.find_map(|line| line.strip_prefix("fn ")).unwrap_or_default();
                names.extend(
                    function
                        .strip_suffix("() {")
                        .filter(|name| is_of_an_item(name))
                        .map(str::to_owned),
                );
            }
        }
    }
}

/// Whether `name` begins with `c`, one of 1 to 7, and `_`.
fn is_of_an_item(name: &str) -> bool {
    matches!(name.as_bytes(), [b'c', b'1'..=b'7', b'_', ..])
}

#[test]
fn every_test_that_the_contract_names_exists_and_every_item_has_one() {
    let root = workspace::root();
    let mut exist = BTreeSet::new();
    for folder in ["hyp", "boot/src", "tests/sim", "tests/differential"] {
        tests_in(&root.join(folder), &mut exist);
    }
    let text = std::fs::read_to_string(root.join("docs/contract.md")).unwrap();
    let named: BTreeSet<&str> =
        text.split('`').skip(1).step_by(2).filter(|name| is_of_an_item(name)).collect();
    for name in &named {
        assert!(
            exist.contains(*name),
            "docs/contract.md names `{name}`, and there is no such test"
        );
    }
    for name in &exist {
        assert!(
            named.contains(name.as_str()),
            "`{name}` is about the contract, and docs/contract.md does not name it"
        );
    }
    for item in 1..=7 {
        assert!(
            named.iter().any(|name| name.starts_with(&format!("c{item}_"))),
            "no test is about C{item}"
        );
    }
}
