//! `cargo xtask mutants`: mutation testing with seeded faults, each of which a test must detect.
//!
//! Each mutant is a patch file in `tests/mutants`. It is applied to a copy of the tree under
//! `target/mutants`, never to the checkout, and its runs of tests are made there, the quick ones
//! first, until one fails. A mutant that no run detects shows that a test is missing.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use oche::progress::Progress;
use oche::workspace;

mod edit;
mod mutant;
mod run;
mod sites;
#[cfg(test)]
mod tests;
mod tree;

use mutant::Mutant;
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
    /// With --sites: skip the sites whose removal an earlier run detected
    #[arg(long, requires = "sites")]
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
    if arguments.list {
        for mutant in chosen {
            let files = mutant.files().into_iter().collect::<Vec<_>>().join(", ");
            println!("{:<45} {files:<32} {}", mutant.name, mutant.breaks);
        }
        return Ok(());
    }
    chosen.iter().try_for_each(|mutant| mutant.check(&root))?;
    let groups: Vec<&[&Mutant]> = chosen.chunk_by(|a, b| a.runs == b.runs).collect();
    let progress = Progress::new(chosen.len() + groups.len());
    let began = Instant::now();
    let tree = Tree::new()?;
    let mut fates = Vec::new();
    for group in groups {
        try_out(group, &tree, &progress, &mut fates)?;
    }
    print(&fates, began)
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

/// Applies each of `mutants`, which have the same runs, and makes these runs, after they have
/// passed without a mutant.
fn try_out<'a>(
    mutants: &[&'a Mutant],
    tree: &Tree,
    progress: &Progress,
    fates: &mut Vec<(&'a Mutant, Fate)>,
) -> Result<()> {
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
        let fate = tree.test(runs, |run| step.detail(run)).with_context(|| mutant.name.clone());
        tree.revert(mutant)?;
        let fate = fate?;
        match &fate {
            Fate::Found(tests) => step.done(&summary(tests)),
            Fate::Survived => step.done("SURVIVED"),
        }
        fates.push((*mutant, fate));
    }
    Ok(())
}

/// Prints what became of each mutant.
///
/// # Errors
///
/// One survived.
fn print(fates: &[(&Mutant, Fate)], began: Instant) -> Result<()> {
    println!("\n{:<45} found by", "mutant");
    for (mutant, fate) in fates {
        match fate {
            Fate::Found(tests) => println!("{:<45} {}", mutant.name, summary(tests)),
            Fate::Survived => println!("{:<45} NOTHING", mutant.name),
        }
    }
    let survivors = fates.iter().filter(|(_, fate)| matches!(fate, Fate::Survived)).count();
    println!(
        "\n{} mutants, {} found, {survivors} survived, in {:.0} s",
        fates.len(),
        fates.len() - survivors,
        began.elapsed().as_secs_f64()
    );
    if survivors != 0 {
        bail!("a mutant survived");
    }
    Ok(())
}
