//! `cargo xtask mutants`: mistakes made on purpose, one at a time, and which test finds each.
//!
//! Each mutant of [`list`] is made in a copy of the tree under `target/mutants`, never in the checkout, and the host
//! tests run there, the quick ones first, until one fails. A mutant that none finds is a test that is missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::progress::Progress;
use crate::workspace;

pub mod list;
#[cfg(test)]
mod tests;

use list::{MUTANTS, Mutant};

/// Options of `cargo xtask mutants`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Make only mutants whose name contains this; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Say which mutants there are, and make none.
    #[arg(long)]
    pub list: bool,
}

/// A test program hangs for this long before it counts as failed, in seconds. The longest takes less than one minute.
const PATIENCE: u32 = 600;
/// Failed tests that are named in the table.
const MOST_NAMED: usize = 3;

/// The test runs, quick ones first: each stands for the arguments of `cargo test`.
const RUNS: [&[&str]; 4] = [
    &["--package", "oche-hyp"],
    &["--package", "oche-boot", "--lib"],
    &["--package", "oche-tests", "--test", "discipline"],
    &["--package", "oche-tests", "--test", "programs", "--", "--skip", "every_sabotage"],
];

/// What became of a mutant.
enum Fate {
    /// These tests failed.
    Found(Vec<String>),
    Survived,
}

/// Carries out `cargo xtask mutants`.
///
/// # Errors
///
/// A mutant survived, cannot be made or does not build; or the tests fail without any.
pub fn main(options: &Options) -> Result<()> {
    let is_chosen = |mutant: &&Mutant| {
        options.only.is_empty() || options.only.iter().any(|word| mutant.name.contains(word.as_str()))
    };
    let chosen: Vec<&Mutant> = MUTANTS.iter().filter(is_chosen).collect();
    if chosen.is_empty() {
        bail!("no mutant's name contains {}", options.only.join(" or "));
    }
    if options.list {
        for Mutant { name, file, breaks, .. } in chosen {
            println!("{name:<45} {file:<32} {breaks}");
        }
        return Ok(());
    }
    let progress = Progress::new(chosen.len() + 1);
    let began = Instant::now();
    let tree = Tree::new()?;
    let step = progress.step("The tests without a mutant");
    if let Fate::Found(tests) = tree.test(|run| step.detail(run))? {
        bail!("fails without a mutant: {}", tests.join(", "));
    }
    step.done("");
    let mut fates = Vec::new();
    for mutant in chosen {
        let step = progress.step(mutant.name);
        step.line(mutant.breaks);
        let before = tree.make(mutant)?;
        let fate = tree.test(|run| step.detail(run)).with_context(|| mutant.name.to_owned());
        tree.write(mutant.file, &before)?;
        let fate = fate?;
        match &fate {
            Fate::Found(tests) => step.done(&told(tests)),
            Fate::Survived => step.done("SURVIVED"),
        }
        fates.push((mutant, fate));
    }
    println!("\n{:<45} found by", "mutant");
    for (mutant, fate) in &fates {
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

fn told(tests: &[String]) -> String {
    let named = tests.iter().take(MOST_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match tests.len().saturating_sub(MOST_NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// The copy that mutants are made in.
struct Tree {
    root: PathBuf,
    build: PathBuf,
}

impl Tree {
    fn new() -> Result<Self> {
        let folder = workspace::target().join("mutants");
        let tree = Self { root: folder.join("tree"), build: folder.join("build") };
        // Files that are equal keep their time, so that little is built again. The checkout may change from here on.
        mirror(&workspace::root(), &tree.root, true)?;
        Ok(tree)
    }

    /// Makes `mutant` in the copy. Gives the file as it was.
    fn make(&self, mutant: &Mutant) -> Result<String> {
        let path = self.root.join(mutant.file);
        let source =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", mutant.file))?;
        self.write(mutant.file, &mutate(&source, mutant)?)?;
        Ok(source)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        // A change within the clock's grain would go unnoticed by the next build.
        std::thread::sleep(Duration::from_millis(20));
        std::fs::write(self.root.join(file), text).with_context(|| format!("cannot write {file} in the copy"))
    }

    /// Runs the tests in the copy until one fails.
    fn test(&self, mut watch: impl FnMut(&str)) -> Result<Fate> {
        for run in RUNS {
            watch(&run.join(" "));
            let mut command = Command::new("timeout");
            command.args(["--kill-after=10", &PATIENCE.to_string()]);
            command.arg(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            command.args(["test", "--no-fail-fast"]).args(run);
            command.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.build).env("RUST_BACKTRACE", "0");
            // This very program's folder is not the copy's.
            command.env_remove("CARGO_MANIFEST_DIR").stdin(Stdio::null());
            let result = command.output().map_err(|error| anyhow!("cannot start the tests: {error}"))?;
            let said = String::from_utf8_lossy(&result.stdout);
            match result.status.code() {
                Some(0) => {}
                // The answers of `timeout`: stopped, and killed.
                Some(124 | 137) => return Ok(Fate::Found(vec!["a test that never ends".to_owned()])),
                _ => {
                    let failed = failed_tests(&said);
                    if failed.is_empty() {
                        bail!("it does not build: {}", last_error(&String::from_utf8_lossy(&result.stderr)));
                    }
                    return Ok(Fate::Found(failed));
                }
            }
        }
        Ok(Fate::Survived)
    }
}

/// `source` with the mistake in it.
///
/// # Errors
///
/// Its text does not occur exactly once.
pub fn mutate(source: &str, mutant: &Mutant) -> Result<String> {
    match source.matches(mutant.text).count() {
        1 => Ok(source.replacen(mutant.text, mutant.replacement, 1)),
        count => bail!("{}: its text occurs {count} times in {}, not once", mutant.name, mutant.file),
    }
}

/// The names in lines such as `test guards::a_store_reaches_all_copies ... FAILED`.
fn failed_tests(said: &str) -> Vec<String> {
    let name = |line: &str| {
        let line = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
        Some(line.trim_end_matches(" - should panic").to_owned())
    };
    said.lines().filter_map(name).collect()
}

fn last_error(said: &str) -> String {
    said.lines().find(|line| line.starts_with("error")).unwrap_or("it says nothing").to_owned()
}

/// Makes the folder `to` equal to `from`, without what is built, hidden, or the same already.
fn mirror(from: &Path, to: &Path, is_top: bool) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let names = |folder: &Path| -> Result<Vec<std::ffi::OsString>> {
        let entries =
            std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
        entries.map(|entry| Ok(entry?.file_name())).collect()
    };
    let is_left_out = |name: &std::ffi::OsStr| {
        name.to_string_lossy().starts_with('.') || is_top && name.to_string_lossy() == "target"
    };
    for name in names(from)?.into_iter().filter(|name| !is_left_out(name)) {
        let (source, copy) = (from.join(&name), to.join(&name));
        if source.is_dir() {
            mirror(&source, &copy, false)?;
            continue;
        }
        let bytes = std::fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
        if std::fs::read(&copy).ok().as_ref() != Some(&bytes) {
            std::fs::write(&copy, bytes).with_context(|| format!("cannot write {}", copy.display()))?;
        }
    }
    for name in names(to)?.into_iter().filter(|name| !is_left_out(name)) {
        let (source, copy) = (from.join(&name), to.join(&name));
        if !source.exists() {
            let removed =
                if copy.is_dir() { std::fs::remove_dir_all(&copy) } else { std::fs::remove_file(&copy) };
            removed.with_context(|| format!("cannot remove {}", copy.display()))?;
        }
    }
    Ok(())
}
