//! `cargo xtask mutants --sites`: each call site of a barrier, of TLB or cache maintenance, of a
//! power check, of a permission re-check, of an `MDCR_EL2` bit and of an access with a fixup is
//! taken away, one at a time, and a test must fail.
//!
//! The sites are found in the source; `sites.txt` holds one verdict for each. A site without a
//! verdict, and a verdict without a site, fail the command and a unit test.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use oche::progress::Progress;
use oche::workspace;

use super::run::{Fate, Run, summary};
use super::tree::Tree;
use crate::test::{BOARD_STEP, ORDERING_STEPS};

mod scan;

use scan::Site;

/// The verdicts, from the top of the tree.
const VERDICTS: &str = "tools/xtask/src/mutants/sites.txt";
/// Between the columns of a verdict.
const COLUMN: &str = " | ";
/// A verdict's column of runs begins so where nothing can observe the removal; the reason follows.
const UNOBSERVABLE: &str = "unobservable: ";
/// Behind the runs: what stands in the site's place.
const WITH: &str = " with: ";

/// The runs that a verdict can name.
const RUNS: [(&str, Run); 9] = [
    ("el2", Run::Host(&["--package", "oche-el2", "--lib", "stage2"])),
    ("bbm", Run::Host(&["--package", "oche-sim", "--test", "break_before_make"])),
    ("m1", Run::Host(&["--package", "oche-m1"])),
    ("virt", Run::Host(&["--package", "oche-qemu-virt"])),
    ("platform", Run::Host(&["--package", "oche-platform"])),
    ("hostile", Run::Step(ORDERING_STEPS[0])),
    ("board", Run::Step(ORDERING_STEPS[1])),
    ("board-plain", Run::Board(BOARD_STEP)),
    ("hostile-plain", Run::Step("Hostile guest, and Oche's own panics")),
];

/// What is known of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Verdict {
    file: String,
    function: String,
    text: String,
    judgement: Judgement,
    /// The tests that found it missing first.
    found_by: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Judgement {
    /// These runs, in this order, until one fails; and what stands in the site's place.
    Runs(Vec<String>, Option<String>),
    /// The reason.
    Unobservable(String),
}

impl Verdict {
    fn key(&self) -> (&str, &str, &str) {
        (&self.file, &self.function, &self.text)
    }

    /// Reads a line.
    fn parse(line: &str) -> Result<Self> {
        let columns: Vec<&str> = line.split(COLUMN).map(str::trim).collect();
        let &[file, function, text, judgement, found_by] = columns.as_slice() else {
            bail!("a verdict has five columns, {COLUMN:?} between them: {line}");
        };
        let judgement = match judgement.strip_prefix(UNOBSERVABLE) {
            Some(reason) => Judgement::Unobservable(reason.to_owned()),
            None => {
                let (runs, with) = match judgement.split_once(WITH) {
                    Some((runs, with)) => (runs, Some(with.to_owned())),
                    None => (judgement, None),
                };
                let runs: Vec<String> = runs.split_whitespace().map(str::to_owned).collect();
                let unknown = runs.iter().find(|run| RUNS.iter().all(|(name, _)| name != run));
                if runs.is_empty() || unknown.is_some() {
                    bail!("no such run: {line}");
                }
                Judgement::Runs(runs, with)
            }
        };
        let [file, function, text, found_by] = [file, function, text, found_by].map(str::to_owned);
        Ok(Self { file, function, text, judgement, found_by })
    }

    fn line(&self) -> String {
        let judgement = match &self.judgement {
            Judgement::Unobservable(reason) => format!("{UNOBSERVABLE}{reason}"),
            Judgement::Runs(runs, None) => runs.join(" "),
            Judgement::Runs(runs, Some(with)) => format!("{}{WITH}{with}", runs.join(" ")),
        };
        [&self.file, &self.function, &self.text, &judgement, &self.found_by]
            .map(String::as_str)
            .join(COLUMN)
    }
}

/// The sites of today's tree, and the verdicts on them.
struct Register {
    sites: Vec<Site>,
    verdicts: Vec<Verdict>,
    /// The lines in front of the verdicts.
    header: String,
}

impl Register {
    fn read() -> Result<Self> {
        let sites = scan::sites(&workspace::root())?;
        let text = fs::read_to_string(path()).with_context(|| format!("cannot read {VERDICTS}"))?;
        let is_comment = |line: &&str| line.starts_with('#') || line.trim().is_empty();
        let header = text.lines().take_while(is_comment).map(|line| format!("{line}\n")).collect();
        let verdicts = text.lines().filter(|line| !is_comment(line)).map(Verdict::parse);
        Ok(Self { sites, verdicts: verdicts.collect::<Result<_>>()?, header })
    }

    /// What is wrong between sites and verdicts, a line each.
    fn mismatches(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for site in &self.sites {
            let count = self.verdicts.iter().filter(|verdict| verdict.key() == site.key()).count();
            let (file, function, text) = site.key();
            match count {
                0 => wrong.push(format!(
                    "no verdict: add this line to {VERDICTS} with the run that fails without the site: \
                     {file}{COLUMN}{function}{COLUMN}{text}{COLUMN}RUN{COLUMN}-"
                )),
                1 => {}
                _ => wrong.push(format!("{count} verdicts on one site: {file}: {function}: {text}")),
            }
        }
        for verdict in &self.verdicts {
            if self.sites.iter().all(|site| site.key() != verdict.key()) {
                wrong.push(format!("no such site any more: {}", verdict.line()));
            }
        }
        wrong
    }

    fn write(&self) -> Result<()> {
        let mut text = self.header.clone();
        for verdict in &self.verdicts {
            let _ = writeln!(text, "{}", verdict.line());
        }
        workspace::write_whole(&path(), text.as_bytes())
    }
}

fn path() -> PathBuf {
    workspace::root().join(VERDICTS)
}

/// Carries out `cargo xtask mutants --sites`.
///
/// # Errors
///
/// Sites and verdicts do not agree, a site can be taken away unnoticed, or a mutant cannot be made.
pub(super) fn main(only: &[String], is_list: bool, is_resumed: bool) -> Result<()> {
    let mut register = Register::read()?;
    let mismatches = register.mismatches();
    if !mismatches.is_empty() {
        bail!("{} sites and verdicts do not agree:\n{}", mismatches.len(), mismatches.join("\n"));
    }
    let is_chosen = |verdict: &Verdict| {
        let line = verdict.line();
        (only.is_empty() || only.iter().any(|word| line.contains(word.as_str())))
            && !(is_resumed && verdict.found_by != "-")
            && matches!(verdict.judgement, Judgement::Runs(..))
    };
    let chosen: Vec<usize> = register
        .verdicts
        .iter()
        .enumerate()
        .filter(|(_, verdict)| is_chosen(verdict))
        .map(|(at, _)| at)
        .collect();
    if chosen.is_empty() && !only.is_empty() && !is_resumed {
        bail!(
            "no verdict contains {}; `cargo xtask mutants --sites --list` prints them",
            only.join(" or ")
        );
    }
    if is_list {
        for verdict in chosen.iter().filter_map(|at| register.verdicts.get(*at)) {
            println!("{}", verdict.line());
        }
        return Ok(());
    }
    let (progress, began, tree) = (Progress::new(chosen.len()), Instant::now(), Tree::new()?);
    let mut survivors = 0;
    for at in chosen {
        survivors += usize::from(register.take_away(at, &tree, &progress)? == Some(Fate::Survived));
        // After each: a run that is stopped goes on there.
        register.write()?;
    }
    let total = register.sites.len();
    let known = register.verdicts.iter().filter(|verdict| verdict.found_by != "-").count();
    let unobservable = register.unobservable();
    println!(
        "{total} sites: {known} found when taken away, {unobservable} unobservable, {survivors} survived this run, \
         {:.0} s",
        began.elapsed().as_secs_f64()
    );
    if survivors != 0 {
        bail!("a site can be taken away unnoticed");
    }
    Ok(())
}

impl Register {
    /// Takes away the site of verdict number `at` in the copy, and writes into the verdict what
    /// finds it missing. `None`: there is nothing to run.
    fn take_away(&mut self, at: usize, tree: &Tree, progress: &Progress) -> Result<Option<Fate>> {
        let Some(verdict) = self.verdicts.get_mut(at) else { return Ok(None) };
        let site = self.sites.iter().find(|site| site.key() == verdict.key());
        let (Some(site), Judgement::Runs(names, with)) = (site, &verdict.judgement) else {
            return Ok(None);
        };
        let step =
            progress.step(&format!("{}: {}: {}", verdict.file, verdict.function, verdict.text));
        let wanted = RUNS.iter().filter(|(name, _)| names.iter().any(|wanted| wanted == name));
        let runs: Vec<Run> = wanted.map(|(_, run)| *run).collect();
        let before = tree.read(&site.file)?;
        tree.write(&site.file, &site.removed(&before, with.as_deref())?)?;
        let fate = tree.test(&runs, |run| step.detail(run)).with_context(|| verdict.line());
        tree.write(&site.file, &before)?;
        let fate = fate?;
        match &fate {
            Fate::Found(tests) => {
                let found_by = summary(tests).replace('|', "/");
                step.done(&found_by);
                // A name that stays is no change of the file: another run finds a site by another
                // case, or after other seconds.
                if verdict.found_by == "-" {
                    verdict.found_by = found_by;
                }
            }
            Fate::Survived => {
                verdict.found_by = "-".to_owned();
                step.done("SURVIVED");
            }
        }
        Ok(Some(fate))
    }

    fn unobservable(&self) -> usize {
        let is_unobservable =
            |verdict: &&Verdict| matches!(verdict.judgement, Judgement::Unobservable(_));
        self.verdicts.iter().filter(is_unobservable).count()
    }
}

#[cfg(test)]
mod tests {
    use super::{Register, Verdict};

    /// Sites that nothing can observe, at most.
    const MAX_UNOBSERVABLE: usize = 51;

    #[test]
    fn every_site_has_one_verdict_and_every_verdict_a_site() {
        let register = Register::read().unwrap();
        let mismatches = register.mismatches();
        assert!(mismatches.is_empty(), "\n{}", mismatches.join("\n"));
        assert!(register.sites.len() > 80, "{} sites", register.sites.len());
        assert!(register.unobservable() <= MAX_UNOBSERVABLE);
    }

    #[test]
    fn a_new_site_and_a_site_that_is_gone_are_reported() {
        let mut register = Register::read().unwrap();
        let gone = register.sites.remove(0);
        let mismatches = register.mismatches();
        assert!(mismatches.len() == 1 && mismatches[0].contains(&gone.text), "{mismatches:?}");
        let mut register = Register::read().unwrap();
        register.verdicts.remove(0);
        assert_eq!(register.mismatches().len(), 1);
    }

    #[test]
    fn a_verdict_is_read_and_written_alike() {
        for line in [
            "a.rs | f | isb | board hostile | context",
            "a.rs | f | x(y) | m1 with: Ok(0) | -",
            "a.rs | f | isb | unobservable: only on Apple's CPUs | -",
        ] {
            assert_eq!(Verdict::parse(line).unwrap().line(), line);
        }
        assert!(Verdict::parse("a.rs | f | isb | nowhere | -").is_err());
        assert!(Verdict::parse("a.rs | f | isb").is_err());
    }
}
