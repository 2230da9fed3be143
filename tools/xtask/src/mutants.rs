//! `cargo xtask mutants`: mutation testing with seeded faults, each of which a test must detect.
//!
//! Each mutant is a patch file in `tests/mutants`. It is applied to a copy of the tree under
//! `target/mutants`, never to the checkout, and its runs of tests are made there, the quick ones
//! first, until one fails. A mutant that no run detects shows that a test is missing. The results
//! are kept in `target/mutants/results.json`: `--resume` goes on where a run was stopped.

use std::time::Instant;

use anyhow::{Result, bail};
use oche::progress::Progress;
use oche::workspace;

use crate::soak;

mod edit;
mod mutant;
mod results;
mod run;
mod sites;
#[cfg(test)]
mod tests;
mod tree;

use mutant::Mutant;
use results::Results;
use run::{Fate, RunSet, summary};
use tree::Tree;

/// Arguments of `cargo xtask mutants`.
#[derive(Clone, Debug, clap::Args)]
pub struct MutantArguments {
    /// Choose the mutants whose name contains this; may be repeated
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// List the mutants and run no test
    #[arg(long)]
    pub list: bool,
    /// Write the mutants' patch files anew with today's line numbers and context
    #[arg(long, conflicts_with_all = ["list", "sites"])]
    pub refresh: bool,
    /// Make the unstaged changes of the working tree a mutant of this name
    #[arg(long, value_name = "NAME", conflicts_with_all = ["only", "list", "sites", "refresh"])]
    pub add: Option<String>,
    /// With --add: describe what goes wrong for a guest
    #[arg(long, value_name = "TEXT", requires = "add")]
    pub breaks: Option<String>,
    /// With --add: choose the tests that must detect the mutant [default: engine]
    #[arg(long, requires = "add")]
    pub runs: Option<RunSet>,
    /// Remove each call site of a barrier, of TLB or cache maintenance, of a power or permission
    /// check
    #[arg(long)]
    pub sites: bool,
    /// Skip the mutants that an earlier run detected at the same commit; with --sites, the sites
    /// that have a verdict
    #[arg(long, conflicts_with_all = ["add", "refresh"])]
    pub resume: bool,
}

/// Carries out `cargo xtask mutants`.
///
/// # Errors
///
/// A mutant survived, does not apply or does not build; or the tests fail without any.
pub fn main(arguments: &MutantArguments) -> Result<()> {
    let root = workspace::root();
    if arguments.sites {
        return sites::main(&arguments.only, arguments.list, arguments.resume);
    }
    if let Some(name) = &arguments.add {
        return edit::add(&root, name, arguments.breaks.as_deref(), arguments.runs);
    }
    let mutants = mutant::read_all(&root)?;
    let chosen = choose(&mutants, &arguments.only)?;
    if arguments.refresh {
        return edit::refresh(&root, &chosen);
    }
    let results = Results::read(workspace::target().join("mutants").join("results.json"))?;
    let commit = soak::commit()?;
    let is_left = |mutant: &&&Mutant| !(arguments.resume && results.is_found_at(mutant, &commit));
    let left: Vec<&Mutant> = chosen.iter().filter(is_left).copied().collect();
    if arguments.list {
        for mutant in left {
            let files = mutant.files().into_iter().collect::<Vec<_>>().join(", ");
            println!("{:<45} {files:<32} {}", mutant.name, mutant.breaks);
        }
        return Ok(());
    }
    left.iter().try_for_each(|mutant| mutant.check(&root))?;
    Session { commit, results }.run(&chosen, &left)
}

/// Those of `mutants` whose name contains one of `words`; all without any.
fn choose<'a>(mutants: &'a [Mutant], words: &[String]) -> Result<Vec<&'a Mutant>> {
    let is_chosen = |mutant: &&Mutant| {
        words.is_empty() || words.iter().any(|word| mutant.name.contains(word.as_str()))
    };
    let chosen: Vec<&Mutant> = mutants.iter().filter(is_chosen).collect();
    if chosen.is_empty() {
        bail!(
            "no mutant's name contains {}; `cargo xtask mutants --list` names them",
            words.join(" or ")
        );
    }
    Ok(chosen)
}

/// A run of many mutants.
struct Session {
    /// The commit of the tree, for the results.
    commit: String,
    results: Results,
}

impl Session {
    /// Tries those of `mutants` that are `left` and prints what became of all.
    fn run(&mut self, mutants: &[&Mutant], left: &[&Mutant]) -> Result<()> {
        let groups: Vec<&[&Mutant]> = left.chunk_by(|a, b| a.runs == b.runs).collect();
        let progress = Progress::new(left.len() + groups.len());
        let began = Instant::now();
        let tree = Tree::new()?;
        for group in groups {
            self.try_out(group, &tree, &progress)?;
        }
        self.print(mutants, left.len(), began)
    }

    /// Applies each of `mutants`, which have the same runs, and makes these runs, after they have
    /// passed without a mutant.
    fn try_out(&mut self, mutants: &[&Mutant], tree: &Tree, progress: &Progress) -> Result<()> {
        let runs = mutants.first().map_or(&[][..], |mutant| mutant.runs.runs());
        let step = progress.step("The tests without a mutant");
        if let Fate::Found(tests) = tree.test(runs, |run| step.detail(run))? {
            bail!("fails without a mutant: {}", tests.join(", "));
        }
        step.done("");
        for mutant in mutants {
            let step = progress.step(&mutant.name);
            step.line(&mutant.breaks);
            tree.apply(mutant)?;
            let fate = tree.test(runs, |run| step.detail(run));
            tree.revert(mutant)?;
            match &fate {
                Ok(Fate::Found(tests)) => step.done(&summary(tests)),
                Ok(Fate::Survived) => step.done("SURVIVED"),
                Err(error) => step.done(&format!("NOT TRIED: {error:#}")),
            }
            self.results.keep(mutant, fate.as_ref().ok(), &self.commit)?;
        }
        Ok(())
    }

    /// Prints what became of each mutant: `left` of them in this run, the others in earlier ones.
    ///
    /// # Errors
    ///
    /// One survived or could not be tried.
    fn print(&self, mutants: &[&Mutant], left: usize, began: Instant) -> Result<()> {
        println!("\n{:<45} found by", "mutant");
        let mut missed = 0;
        for mutant in mutants {
            match self.results.found(mutant) {
                Some(tests) => println!("{:<45} {}", mutant.name, summary(tests)),
                None => {
                    missed += 1;
                    println!("{:<45} NOTHING", mutant.name);
                }
            }
        }
        println!(
            "\n{} mutants, {} found, {missed} not; {left} tried in this run, in {:.0} s",
            mutants.len(),
            mutants.len() - missed,
            began.elapsed().as_secs_f64()
        );
        if missed != 0 {
            bail!("{missed} mutants survived or could not be tried");
        }
        Ok(())
    }
}
