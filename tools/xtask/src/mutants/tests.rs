//! The mutants fit the tree as it is, and their files can be added and refreshed.

use std::fs;
use std::path::Path;
use std::process::Command;

use oche::workspace;

use super::edit::{add, refresh};
use super::mutant::{Mutant, count, hunks, read_all};
use super::run::{RunSet, failed_run, failed_tests, last_error, summary};
use super::tree::mirror;
use crate::test;

#[test]
fn every_mutant_applies_to_todays_tree() {
    let root = workspace::root();
    let mutants = read_all(&root).unwrap();
    assert!(mutants.len() >= 150, "{} mutants", mutants.len());
    for mutant in &mutants {
        mutant.check(&root).unwrap();
        assert!(mutant.diff.contains("\n+") || mutant.diff.contains("\n-"), "{}", mutant.name);
    }
    let paths = mutants.iter().map(|mutant| Mutant::path(&mutant.name));
    let mut check = Command::new("git");
    let output = check.args(["apply", "--check"]).args(paths).current_dir(&root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_patch_file_is_what_its_mutant_is_written_as() {
    let root = workspace::root();
    for mutant in read_all(&root).unwrap() {
        let text = fs::read_to_string(root.join(Mutant::path(&mutant.name))).unwrap();
        assert_eq!(mutant.text(), text);
    }
}

const PATCH: &str = "Breaks: all\nRuns: board\n\ndiff --git a/x b/x\n--- a/x\n+++ b/x\n\
                     @@ -1,3 +1,3 @@\n one\n---two\n+++2\n three\n";

#[test]
fn a_header_without_a_description_or_with_unknown_runs_is_refused() {
    let mutant = Mutant::parse("name", PATCH).unwrap();
    assert_eq!((mutant.breaks.as_str(), mutant.runs), ("all", RunSet::Board));
    for (from, to) in [("Breaks: all\n", ""), ("Breaks: all", "Breaks: "), ("board", "table")] {
        Mutant::parse("name", &PATCH.replace(from, to)).unwrap_err();
    }
    Mutant::parse("name", "Breaks: all\nRuns: board\n").unwrap_err();
}

#[test]
fn a_hunk_is_the_lines_that_it_expects() {
    let hunks = hunks(PATCH);
    assert_eq!(hunks.len(), 1);
    assert_eq!(hunks[0].file, "x");
    assert_eq!(hunks[0].before, "one\n--two\nthree\n");
    assert_eq!(hunks[0].removed, "--two\n");
    assert_eq!(count("a\naa\na\n", "a\n"), 2);
}

#[test]
fn a_mutant_whose_lines_are_gone_or_there_twice_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mutant = Mutant::parse("name", PATCH).unwrap();
    for (source, is_right) in [
        ("one\n--two\nthree\n", true),
        ("one\ntwo\nthree\n", false),
        ("one\n--two\nthree\none\n--two\nthree\n", false),
    ] {
        fs::write(folder.path().join("x"), source).unwrap();
        assert_eq!(mutant.check(folder.path()).is_ok(), is_right, "{source}");
    }
}

/// A checkout with the file `x`, and `x` changed in the working tree.
fn checkout(root: &Path, committed: &str, changed: &str) {
    let git = |arguments: &[&str]| {
        let status = Command::new("git").args(arguments).current_dir(root).status().unwrap();
        assert!(status.success());
    };
    git(&["init", "--quiet"]);
    fs::write(root.join("x"), committed).unwrap();
    git(&["add", "x"]);
    fs::write(root.join("x"), changed).unwrap();
}

#[test]
fn a_change_of_the_working_tree_becomes_a_mutant_with_a_unique_context() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    checkout(root, "a\nb\nc\nd\nb\nc\ne\n", "a\nb\nc\nd\nb\n3\ne\n");
    add(root, "third", None, None).unwrap_err();
    add(root, "third", Some("all"), None).unwrap();
    let mutants = read_all(root).unwrap();
    assert_eq!(mutants.len(), 1);
    let mutant = &mutants[0];
    assert_eq!((mutant.breaks.as_str(), mutant.runs), ("all", RunSet::Engine));
    assert_eq!(hunks(&mutant.diff)[0].before, "b\nc\ne\n");
    // The header stays where only the change is another.
    fs::write(root.join("x"), "a\nb\n3\nd\nb\nc\ne\n").unwrap();
    add(root, "third", None, Some(RunSet::Board)).unwrap();
    let mutant = &read_all(root).unwrap()[0];
    assert_eq!((mutant.breaks.as_str(), mutant.runs), ("all", RunSet::Board));
    assert_eq!(hunks(&mutant.diff)[0].before, "b\nc\nd\n");
    fs::write(root.join("x"), "a\nb\nc\nd\nb\nc\ne\n").unwrap();
    add(root, "third", None, None).unwrap_err();
}

#[test]
fn a_refreshed_mutant_has_todays_context_or_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    checkout(root, "a\n b\nc\n", "a\n 2\nc\n");
    add(root, "name", Some("all"), None).unwrap();
    let refreshed = |source: &str| {
        fs::write(root.join("x"), source).unwrap();
        let mutant = read_all(root).unwrap().remove(0);
        let result = refresh(root, &[&mutant]);
        let mutant = read_all(root).unwrap().remove(0);
        result.map(|()| {
            mutant.check(root).unwrap();
            hunks(&mutant.diff)[0].before.clone()
        })
    };
    assert_eq!(refreshed("new\na\n b\nc\n").unwrap(), "a\n b\nc\n");
    assert_eq!(refreshed("new\nA\n b\nC\n").unwrap(), "A\n b\nC\n");
    assert_eq!(refreshed("A\n  b\nC\n").unwrap(), "A\n  b\nC\n");
    refreshed("1\n b\n2\n3\n b\n4\n").unwrap_err();
    refreshed("A\nC\n").unwrap_err();
}

#[test]
fn failed_tests_are_summarised_by_name() {
    let printed = "test one ... ok\ntest two::three ... FAILED\n\
                   test four - should panic ... FAILED\nfailures:\n";
    assert_eq!(failed_tests(printed), ["two::three", "four"]);
    assert_eq!(summary(&["a", "b", "c", "d", "e"].map(str::to_owned)), "a, b, c and 2 more");
}

#[test]
fn a_wrong_run_of_the_board_is_not_taken_for_a_failed_build() {
    let verdict = test::BOARD_VERDICT;
    let printed = format!(
        "[1/1] a step\n      1 CPU\n      {verdict}1 CPU: it hangs\n      FAILED (2.0 s)\n"
    );
    assert_eq!(failed_run(&printed).as_deref(), Some("1 CPU: it hangs"));
    let printed =
        "[1/1] a step\n      there is no QEMU\n      FAILED (0.1 s)\nerror: a test failed\n";
    assert_eq!(failed_run(printed), None);
    assert_eq!(last_error(printed), "there is no QEMU");
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
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    mirror(&from, &to, true).unwrap();
    let time = fs::metadata(to.join("kept")).unwrap().modified().unwrap();
    fs::write(from.join("changed"), "2").unwrap();
    fs::remove_file(from.join("gone")).unwrap();
    mirror(&from, &to, true).unwrap();
    assert_eq!(fs::read(to.join("changed")).unwrap(), b"2");
    assert_eq!(fs::metadata(to.join("kept")).unwrap().modified().unwrap(), time);
    assert!(!to.join("gone").exists() && !to.join("target").exists() && !to.join(".git").exists());
}
