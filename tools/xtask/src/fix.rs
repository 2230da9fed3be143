//! `cargo xtask fix`: applies what can be mended without a decision, and lists what it changed.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use oche::el2::{self, Toolchain};
use oche::progress::Progress;
use oche::{command, workspace};
use sha2::{Digest, Sha256};

use crate::check::TARGET_PACKAGES;
use crate::environment;

/// The variable that makes a test write what it compares with: see the tests of [`GENERATED`].
const UPDATE: &str = "OCHE_UPDATE";

/// Files that tests generate, with the arguments of `cargo test` that name the test.
///
/// `hyp/trace/tests/golden.txt` is not among them: files that were written before must stay
/// readable, so a difference there is a decision.
const GENERATED: [(&str, &[&str]); 2] = [
    ("table of events in docs/trace.md", &["-p", "oche-trace", "--lib", "the_document_describes"]),
    ("Wireshark's dissector", &["-p", "oche", "--lib", "the_dissector_has"]),
];

/// Options of `cargo xtask fix`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
It runs, in this order: cargo clippy --fix for the host and for the target, cargo fmt, and the tests
that write the generated parts of docs/trace.md and of Wireshark's dissector. `cargo xtask check`
and the tests report what is left.")]
pub struct FixOptions {
    /// Leave out clippy, which takes minutes where much is to be compiled
    #[arg(long)]
    pub quick: bool,
}

/// Carries out `cargo xtask fix`.
///
/// # Errors
///
/// The tree does not compile, or a generated part cannot be written.
pub fn main(options: &FixOptions) -> Result<()> {
    let before = digests()?;
    let progress = Progress::new(if options.quick { 2 } else { 4 });
    if !options.quick {
        let step = progress.step("Lints, host (cargo clippy --fix)");
        let mut clippy = cargo();
        clippy.args(["clippy", "--fix", "--allow-dirty", "--allow-staged", "--quiet"]);
        clippy.args(["--workspace", "--all-targets"]);
        command::run_showing_errors(&mut clippy, "cargo clippy --fix", &step)?;
        step.done("");

        let step = progress.step("Lints, target (cargo clippy --fix)");
        let toolchain = environment::prepare(&step)?;
        match toolchain {
            Toolchain::Rustup => {
                let mut clippy = toolchain.cargo();
                clippy.args(["clippy", "--fix", "--allow-dirty", "--allow-staged", "--quiet"]);
                clippy.args(["--profile", el2::PROFILE]).args(toolchain.target_arguments());
                clippy.args(TARGET_PACKAGES.iter().flat_map(|package| ["--package", package]));
                command::run_showing_errors(&mut clippy, "cargo clippy --fix for EL2", &step)?;
                step.done("");
            }
            // Debian's clippy cannot apply what it suggests.
            Toolchain::Debian => step.skipped(),
        }
    }
    let step = progress.step("Form (cargo fmt)");
    command::run_showing_errors(cargo().args(["fmt", "--all"]), "cargo fmt", &step)?;
    step.done("");

    let step = progress.step("Generated parts");
    for (what, test) in GENERATED {
        step.detail(what);
        let mut cargo = cargo();
        cargo.args(["test", "--quiet"]).args(test).env(UPDATE, "1");
        // A test that still fails needs a decision: the others still write their parts.
        if let Err(error) = command::run(&mut cargo, what) {
            step.line(&format!("{error:#}"));
        }
    }
    step.done("");
    report(&before, &digests()?);
    Ok(())
}

/// Prints the files whose digests differ.
fn report(before: &BTreeMap<String, Vec<u8>>, after: &BTreeMap<String, Vec<u8>>) {
    let changed = changed(before, after);
    if changed.is_empty() {
        println!("nothing to change");
    }
    for file in changed {
        println!("changed {file}");
    }
}

fn changed<'a>(
    before: &BTreeMap<String, Vec<u8>>,
    after: &'a BTreeMap<String, Vec<u8>>,
) -> Vec<&'a str> {
    let differs = |(file, digest): &(&String, &Vec<u8>)| before.get(*file) != Some(*digest);
    after.iter().filter(differs).map(|(file, _)| file.as_str()).collect()
}

/// The digests of all files that version control knows or would add.
fn digests() -> Result<BTreeMap<String, Vec<u8>>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    let files = command::text(git.current_dir(workspace::root()), "listing the files")?;
    let mut digests = BTreeMap::new();
    for file in files.lines() {
        // A file that was removed and not yet committed is listed too.
        if let Ok(bytes) = fs::read(workspace::root().join(file)) {
            digests.insert(file.to_owned(), Sha256::digest(&bytes).to_vec());
        }
    }
    (!digests.is_empty()).then_some(digests).context("git lists no files")
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace::root());
    cargo
}

#[cfg(test)]
mod tests {
    use super::changed;
    use std::collections::BTreeMap;

    #[test]
    fn new_and_different_files_are_changed() {
        let files = |list: &[(&str, u8)]| -> BTreeMap<String, Vec<u8>> {
            list.iter().map(|(name, byte)| ((*name).to_owned(), vec![*byte])).collect()
        };
        let before = files(&[("a", 1), ("b", 2)]);
        assert_eq!(changed(&before, &files(&[("a", 1), ("b", 3), ("c", 4)])), ["b", "c"]);
        assert!(changed(&before, &before).is_empty());
    }
}
