//! What became of each mutant in the latest run, kept beside the copy so that a run that was
//! stopped goes on where it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use oche::workspace;
use serde::{Deserialize, Serialize};

use super::mutant::Mutant;
use super::run::Fate;

/// The latest result of one mutant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    /// The lines that the mutant changed then.
    change: String,
    /// The commit of the tree that it was tried in.
    commit: String,
    /// The tests that failed; none if it survived or could not be tried.
    found_by: Vec<String>,
}

/// The latest results, by the mutants' names.
pub(super) struct Results {
    path: PathBuf,
    known: BTreeMap<String, Known>,
}

impl Results {
    /// The results that are kept at `path`.
    ///
    /// # Errors
    ///
    /// The file is there and cannot be read, or is not of this version.
    pub(super) fn read(path: PathBuf) -> Result<Self> {
        if !path.exists() {
            return Ok(Self { path, known: BTreeMap::new() });
        }
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let known = serde_json::from_slice(&text).with_context(|| {
            format!("{} is not a file of results: remove it to begin anew", path.display())
        })?;
        Ok(Self { path, known })
    }

    /// The tests that found `mutant` when it was last tried with the change that it makes today.
    pub(super) fn found(&self, mutant: &Mutant) -> Option<&[String]> {
        let known = self.known.get(&mutant.name)?;
        (known.change == mutant.change() && !known.found_by.is_empty()).then_some(&known.found_by)
    }

    /// Whether `mutant` was found in the tree of `commit` itself: other tests may miss it, and a
    /// tree with changes has no name.
    pub(super) fn is_found_at(&self, mutant: &Mutant, commit: &str) -> bool {
        let is_exact = !commit.ends_with("-dirty") && commit != "unknown";
        let is_there = self.known.get(&mutant.name).is_some_and(|known| known.commit == commit);
        is_exact && is_there && self.found(mutant).is_some()
    }

    /// Keeps what became of `mutant` in the tree of `commit`; nothing became of one that could not
    /// be tried.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub(super) fn keep(
        &mut self,
        mutant: &Mutant,
        fate: Option<&Fate>,
        commit: &str,
    ) -> Result<()> {
        let found_by = match fate {
            Some(Fate::Found(tests)) => tests.clone(),
            Some(Fate::Survived) | None => Vec::new(),
        };
        let known = Known { change: mutant.change(), commit: commit.to_owned(), found_by };
        self.known.insert(mutant.name.clone(), known);
        workspace::write_whole(&self.path, &serde_json::to_vec_pretty(&self.known)?)
    }
}

#[cfg(test)]
mod tests {
    use super::Results;
    use crate::mutants::mutant::Mutant;
    use crate::mutants::run::Fate;

    fn mutant(change: &str, line: u32) -> Mutant {
        let diff = format!(
            "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -{line},2 +{line},2 @@\n one\n-two\n{change}"
        );
        Mutant::parse("name", &format!("Breaks: all\nRuns: board\n\n{diff}")).unwrap()
    }

    #[test]
    fn a_found_mutant_is_known_in_the_next_run_until_its_change_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.json");
        let mut results = Results::read(path.clone()).unwrap();
        let one = mutant("+2\n", 1);
        assert_eq!(results.found(&one), None);
        let tests = vec!["a_test".to_owned()];
        results.keep(&one, Some(&Fate::Found(tests.clone())), "abc").unwrap();
        let mut results = Results::read(path.clone()).unwrap();
        assert_eq!(results.found(&one), Some(tests.as_slice()));
        // Other line numbers are the same change; other lines are not.
        assert!(results.is_found_at(&mutant("+2\n", 9), "abc"));
        assert_eq!(results.found(&mutant("+3\n", 1)), None);
        assert!(!results.is_found_at(&mutant("+3\n", 1), "abc"));
        results.keep(&one, Some(&Fate::Survived), "abc").unwrap();
        assert_eq!(Results::read(path).unwrap().found(&one), None);
    }

    #[test]
    fn what_was_found_in_another_tree_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut results = Results::read(folder.path().join("results.json")).unwrap();
        let one = mutant("+2\n", 1);
        for (commit, is_found) in [("abc", true), ("abc-dirty", false), ("unknown", false)] {
            results.keep(&one, Some(&Fate::Found(vec!["a_test".to_owned()])), commit).unwrap();
            assert_eq!(results.is_found_at(&one, commit), is_found);
            assert!(!results.is_found_at(&one, "def"));
        }
    }

    #[test]
    fn a_damaged_file_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.json");
        std::fs::write(&path, "{").unwrap();
        let error = Results::read(path).err().unwrap();
        assert!(format!("{error:#}").contains("remove it to begin anew"), "{error:#}");
    }
}
