//! The list of mutants is about the tree as it is.

use std::collections::BTreeSet;

use super::list::MUTANTS;
use super::{failed_tests, mirror, mutate, told};
use crate::workspace;

#[test]
fn every_mutant_can_be_made_in_todays_tree() {
    for mutant in MUTANTS {
        let source = std::fs::read_to_string(workspace::root().join(mutant.file)).unwrap();
        let mutated = mutate(&source, mutant).unwrap();
        assert_ne!(mutated, source, "{} changes nothing", mutant.name);
    }
}

#[test]
fn there_are_at_least_twenty_mutants_and_no_two_have_one_name() {
    let names: BTreeSet<&str> = MUTANTS.iter().map(|mutant| mutant.name).collect();
    assert_eq!(names.len(), MUTANTS.len());
    assert!(names.len() >= 20);
}

#[test]
fn a_mutant_whose_text_is_gone_or_there_twice_is_refused() {
    let text = MUTANTS[0].text;
    assert!(mutate("", &MUTANTS[0]).is_err());
    assert!(mutate(&format!("{text} {text}"), &MUTANTS[0]).is_err());
}

#[test]
fn failed_tests_are_told_by_name() {
    let said =
        "test one ... ok\ntest two::three ... FAILED\ntest four - should panic ... FAILED\nfailures:\n";
    assert_eq!(failed_tests(said), ["two::three", "four"]);
    assert_eq!(told(&["a", "b", "c", "d", "e"].map(str::to_owned)), "a, b, c and 2 more");
}

#[test]
fn a_mirror_takes_over_what_changed_and_drops_what_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    for (name, text) in
        [("kept", "1"), ("changed", "1"), ("gone", "1"), ("target/built", "1"), (".git/x", "1")]
    {
        let path = from.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    mirror(&from, &to, true).unwrap();
    let time = std::fs::metadata(to.join("kept")).unwrap().modified().unwrap();
    std::fs::write(from.join("changed"), "2").unwrap();
    std::fs::remove_file(from.join("gone")).unwrap();
    mirror(&from, &to, true).unwrap();
    assert_eq!(std::fs::read(to.join("changed")).unwrap(), b"2");
    assert_eq!(std::fs::metadata(to.join("kept")).unwrap().modified().unwrap(), time);
    assert!(!to.join("gone").exists() && !to.join("target").exists() && !to.join(".git").exists());
}
