//! `cargo xtask mutants`: mistakes made on purpose, one at a time, and which test finds each.
//!
//! Each mutant is made in a copy of the tree under `target/mutants`, never in the checkout, and the
//! tests of its group run there, the quick ones first, until one fails: on the host for `list` and
//! `driver`, on the simulated board for `board`. A mutant that none finds is a test that is
//! missing.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use oche::progress::Progress;

mod board;
mod driver;
mod list;
mod run;
mod sites;
#[cfg(test)]
mod tests;
mod tree;

use list::Mutant;
use run::{Fate, Run, told};
use tree::Tree;

/// Options of `cargo xtask mutants`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Make only mutants whose name contains this; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Say which mutants there are, and make none.
    #[arg(long)]
    pub list: bool,
    /// Take away each call site of a barrier, of TLB or cache maintenance, of a power or permission
    /// check
    #[arg(long)]
    pub sites: bool,
    /// With --sites: leave out the sites that a run before has found missing
    #[arg(long, requires = "sites")]
    pub resume: bool,
}

/// Mutants, and the runs that may find them.
struct Group {
    runs: &'static [Run],
    mutants: &'static [Mutant],
}

/// All of them.
const GROUPS: [Group; 3] = [
    Group { runs: run::ENGINE, mutants: list::MUTANTS },
    Group { runs: run::DRIVER, mutants: driver::MUTANTS },
    Group { runs: run::BOARD, mutants: board::MUTANTS },
];

/// Carries out `cargo xtask mutants`.
///
/// # Errors
///
/// A mutant survived, cannot be made or does not build; or the tests fail without any.
pub fn main(options: &Options) -> Result<()> {
    if options.sites {
        return sites::main(&options.only, options.list, options.resume);
    }
    let is_chosen = |mutant: &&Mutant| {
        options.only.is_empty()
            || options.only.iter().any(|word| mutant.name.contains(word.as_str()))
    };
    let chosen =
        GROUPS.each_ref().map(|group| group.mutants.iter().filter(is_chosen).collect::<Vec<_>>());
    let count = chosen.iter().map(Vec::len).sum::<usize>();
    if count == 0 {
        bail!(
            "no mutant's name contains {}; `cargo xtask mutants --list` names them",
            options.only.join(" or ")
        );
    }
    if options.list {
        for Mutant { name, file, breaks, .. } in chosen.into_iter().flatten() {
            println!("{name:<45} {file:<32} {breaks}");
        }
        return Ok(());
    }
    let groups = GROUPS.iter().zip(&chosen).filter(|(_, mutants)| !mutants.is_empty());
    let progress = Progress::new(count + groups.clone().count());
    let began = Instant::now();
    let tree = Tree::new()?;
    let mut fates = Vec::new();
    for (group, mutants) in groups {
        try_out(group, mutants, &tree, &progress, &mut fates)?;
    }
    print(&fates, began)
}

/// Makes each of `mutants` and runs the tests of `group` on it, after they have passed without any.
fn try_out(
    group: &Group,
    mutants: &[&'static Mutant],
    tree: &Tree,
    progress: &Progress,
    fates: &mut Vec<(&'static Mutant, Fate)>,
) -> Result<()> {
    let step = progress.step("The tests without a mutant");
    if let Fate::Found(tests) = tree.test(group.runs, |run| step.detail(run))? {
        bail!("fails without a mutant: {}", tests.join(", "));
    }
    step.done("");
    for mutant in mutants {
        let step = progress.step(mutant.name);
        step.line(mutant.breaks);
        let before = tree.make(mutant)?;
        let fate =
            tree.test(group.runs, |run| step.detail(run)).with_context(|| mutant.name.to_owned());
        tree.write(mutant.file, &before)?;
        let fate = fate?;
        match &fate {
            Fate::Found(tests) => step.done(&told(tests)),
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
            Fate::Found(tests) => println!("{:<45} {}", mutant.name, told(tests)),
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
