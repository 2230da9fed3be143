//! The list of mutants is about the tree as it is.

use std::collections::BTreeSet;

use oche::workspace;

use super::GROUPS;
use super::list::{MUTANTS, Mutant};
use super::run::{failed_run, failed_tests, last_error, told};
use super::tree::{mirror, mutate};
use crate::test;

fn all() -> impl Iterator<Item = &'static Mutant> {
    GROUPS.iter().flat_map(|group| group.mutants)
}

#[test]
fn every_mutant_can_be_made_in_todays_tree() {
    for mutant in all() {
        let source = std::fs::read_to_string(workspace::root().join(mutant.file)).unwrap();
        let mutated = mutate(&source, mutant).unwrap();
        assert_ne!(mutated, source, "{} changes nothing", mutant.name);
    }
}

#[test]
fn there_are_at_least_twenty_mutants_and_no_two_have_one_name() {
    let names: BTreeSet<&str> = all().map(|mutant| mutant.name).collect();
    assert_eq!(names.len(), all().count());
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
    let said = "test one ... ok\ntest two::three ... FAILED\ntest four - should panic ... FAILED\nfailures:\n";
    assert_eq!(failed_tests(said), ["two::three", "four"]);
    assert_eq!(told(&["a", "b", "c", "d", "e"].map(str::to_owned)), "a, b, c and 2 more");
}

#[test]
fn a_wrong_run_of_the_board_is_told_apart_from_what_does_not_build() {
    let verdict = test::BOARD_VERDICT;
    let said = format!(
        "[1/1] a step\n      1 CPU\n      {verdict}1 CPU: it hangs\n      FAILED (2.0 s)\n"
    );
    assert_eq!(failed_run(&said).as_deref(), Some("1 CPU: it hangs"));
    let said = "[1/1] a step\n      there is no QEMU\n      FAILED (0.1 s)\nerror: a test failed\n";
    assert_eq!(failed_run(said), None);
    assert_eq!(last_error(said), "there is no QEMU");
    assert_eq!(
        last_error("warning: x\nerror[E0308]: mismatched types\n"),
        "error[E0308]: mismatched types"
    );
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
