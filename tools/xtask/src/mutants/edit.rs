//! `cargo xtask mutants --add` and `--refresh`: write the patch files.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use oche::workspace;

use super::mutant::{FOLDER, Mutant, count, hunks};
use super::run::RunSet;

/// The folders of the files before and after a change.
const BEFORE: &str = "a";
const AFTER: &str = "b";
/// Lines of context around a change, at most.
const MAX_CONTEXT: usize = 40;

/// Makes the unstaged changes of the checkout at `root` the mutant `name`. Of a mutant that exists,
/// the header stays where `breaks` or `runs` is not given.
///
/// # Errors
///
/// There is no change, or a new mutant has no description.
pub(super) fn add(
    root: &Path,
    name: &str,
    breaks: Option<&str>,
    runs: Option<RunSet>,
) -> Result<()> {
    let path = root.join(Mutant::path(name));
    let old = path.exists().then(|| Mutant::read(&path)).transpose()?;
    let Some(breaks) = breaks.or(old.as_ref().map(|old| old.breaks.as_str())) else {
        bail!("a new mutant needs --breaks \"what goes wrong for a guest\"");
    };
    let runs = runs.or(old.as_ref().map(|old| old.runs)).unwrap_or(RunSet::Engine);
    let exclude = format!(":(exclude){FOLDER}");
    let changed = git(root, &["diff", "--name-only", "--no-ext-diff", "--", ".", &exclude], "")?;
    let sides = Sides::new(root)?;
    for file in changed.lines() {
        sides.put(BEFORE, file, &git(root, &["show", &format!(":{file}")], "")?)?;
        let after = fs::read_to_string(root.join(file));
        sides.put(AFTER, file, &after.with_context(|| format!("cannot read {file}"))?)?;
    }
    let diff = sides.diff()?;
    if diff.is_empty() {
        bail!("`git diff` shows no change to make a mutant of");
    }
    let mutant = Mutant { name: name.to_owned(), breaks: breaks.to_owned(), runs, diff };
    workspace::write_whole(&path, mutant.text().as_bytes())?;
    let path = Mutant::path(name);
    println!("wrote {0}; `git apply --reverse {0}` undoes the fault", path.display());
    Ok(())
}

/// Writes each of `mutants` anew with the line numbers and the context of the tree at `root`.
///
/// # Errors
///
/// A mutant no longer applies; the others are written.
pub(super) fn refresh(root: &Path, mutants: &[&Mutant]) -> Result<()> {
    let mut failed = Vec::new();
    for mutant in mutants {
        let path = Mutant::path(&mutant.name);
        match refreshed(mutant, root) {
            Ok(diff) if diff == mutant.diff => {}
            Ok(diff) => {
                let text = Mutant { diff, ..(*mutant).clone() }.text();
                workspace::write_whole(&root.join(&path), text.as_bytes())?;
                println!("refreshed {}", path.display());
            }
            Err(error) => failed.push(format!("{}: {error:#}", path.display())),
        }
    }
    if !failed.is_empty() {
        bail!(
            "{} mutants no longer apply; make each change by hand and run `cargo xtask mutants --add`:\n{}",
            failed.len(),
            failed.join("\n")
        );
    }
    Ok(())
}

/// The diff of `mutant` with the context of the tree at `root`. Where the context has changed, the
/// lines that a hunk removes must occur once, white space aside.
fn refreshed(mutant: &Mutant, root: &Path) -> Result<String> {
    let sides = Sides::new(root)?;
    for file in mutant.files() {
        let source = fs::read_to_string(root.join(&file));
        let source = source.with_context(|| format!("cannot read {file}"))?;
        sides.put(BEFORE, &file, &source)?;
        sides.put(AFTER, &file, &source)?;
    }
    let after = sides.folder.join(AFTER);
    if mutant.check(root).is_err() || apply(&after, &mutant.diff, &[]).is_err() {
        for hunk in hunks(&mutant.diff) {
            let source = fs::read_to_string(after.join(&hunk.file))?;
            let places = count(&trimmed(&source), &trimmed(&hunk.removed));
            if hunk.removed.is_empty() || places != 1 {
                bail!("the context of a hunk has changed in {}", hunk.file);
            }
        }
        apply(&after, &mutant.diff, &["-C0", "--ignore-whitespace"])?;
    }
    sides.diff()
}

/// `text` with its lines trimmed.
fn trimmed(text: &str) -> String {
    text.lines().flat_map(|line| [line.trim(), "\n"]).collect()
}

/// Files before and after a change.
struct Sides {
    folder: PathBuf,
}

impl Sides {
    /// Two empty folders below the `target` folder of `root`.
    fn new(root: &Path) -> Result<Self> {
        let folder = root.join("target/mutants/diff");
        workspace::remove_folder(&folder)?;
        for side in [BEFORE, AFTER] {
            workspace::create_folder(&folder.join(side))?;
        }
        Ok(Self { folder })
    }

    fn put(&self, side: &str, file: &str, text: &str) -> Result<()> {
        workspace::write_whole(&self.folder.join(side).join(file), text.as_bytes())
    }

    /// The diff, with as little context as gives each hunk one place in its file.
    fn diff(&self) -> Result<String> {
        let before = self.folder.join(BEFORE);
        for context in 1..MAX_CONTEXT {
            let lines = format!("-U{context}");
            let options = ["diff", "--no-index", "--no-prefix", "--no-color", "--no-ext-diff"];
            let output = Command::new("git")
                .args(options)
                .args([&lines, BEFORE, AFTER])
                .current_dir(&self.folder)
                .output()
                .context("cannot start git")?;
            // 0: no difference; 1: some.
            if !matches!(output.status.code(), Some(0 | 1)) {
                bail!("git diff: {}", String::from_utf8_lossy(&output.stderr).trim());
            }
            let diff = String::from_utf8(output.stdout)?;
            // A file's hash changes with every edit of it.
            let is_kept = |line: &&str| !line.starts_with("index ");
            let diff: String = diff.split_inclusive('\n').filter(is_kept).collect();
            let is_unique = hunks(&diff).iter().all(|hunk| {
                let source = fs::read_to_string(before.join(&hunk.file)).unwrap_or_default();
                count(&source, &hunk.before) == 1
            });
            if is_unique {
                return Ok(diff);
            }
        }
        bail!("no context of less than {MAX_CONTEXT} lines makes the change's place unique")
    }
}

/// Applies `diff` to the tree at `root`.
///
/// # Errors
///
/// It does not apply.
pub(super) fn apply(root: &Path, diff: &str, options: &[&str]) -> Result<()> {
    let arguments = [&["apply", "--whitespace=nowarn"], options].concat();
    git(root, &arguments, diff).map(drop)
}

/// What git prints, given `arguments` and `input`, in the folder `root`.
fn git(root: &Path, arguments: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new("git")
        .args(arguments)
        .current_dir(root)
        // A copy below the checkout is a tree of its own, not a folder of the checkout.
        .env("GIT_CEILING_DIRECTORIES", root.parent().map_or(OsStr::new(""), Path::as_os_str))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start git")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).context("cannot write to git")?;
    }
    let output = child.wait_with_output().context("cannot wait for git")?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("git {}: {}", arguments.join(" "), errors.trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}
