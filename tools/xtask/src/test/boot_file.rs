//! m1n1's boot file as Debian's own script writes it: `oche inspect` finds in it what went in, and
//! the image that it finds boots on the simulated M1.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use oche::el2::Toolchain;
use oche::progress::Step;
use oche::{command, workspace};
use oche_m1_sim::Mac;
use serde_json::Value;

use super::m1::expect::expect;
use crate::m1::bench::Bench;
use crate::m1::device_tree::KernelSource;
use crate::m1::update_m1n1::{BootFileParts, UpdateM1n1};

/// Debian's current stable and the newest.
const SUITES: [&str; 2] = ["trixie", "sid"];
/// `/etc/m1n1.conf`: the script leaves comments and what it does not know out.
const CONFIGURATION: &str = "\
# Oche's memory
chosen.oche.pool=96M

display=auto
nonsense=1
chosen.oche.log=debug
";
/// The properties of `/chosen` that follow.
const CHOSEN: [(&str, &str); 2] = [("oche.pool", "96M"), ("oche.log", "debug")];
/// A line of the log that only `oche.log=debug` gives.
const DEBUG_LINE: &str = "oche: debug: tables: ";

/// Where the packages come from, and the trees.
#[derive(Debug)]
pub(crate) struct Sources {
    /// The source of the device trees.
    pub(crate) kernel: KernelSource,
    /// Whether the archive is asked for its newest packages.
    pub(crate) is_fresh: bool,
}

/// Writes, inspects and boots one boot file of each suite.
///
/// # Errors
///
/// The first that went wrong.
pub(crate) fn run(toolchain: Toolchain, sources: &Sources, step: &Step) -> Result<String> {
    let folder = workspace::target().join("test").join("boot-file");
    let bench = Bench::make(toolchain, &[], &folder, step)?;
    let trees = sources.kernel.device_trees(step)?;
    let configuration = folder.join("m1n1.conf");
    workspace::write_whole(&configuration, CONFIGURATION.as_bytes())?;
    let parts = BootFileParts { kernel: &bench.path, trees: &trees, configuration: &configuration };
    let mut versions = Vec::new();
    for suite in SUITES {
        let script = UpdateM1n1::fetch(suite, sources.is_fresh, &folder, step)?;
        let version = script.version.clone();
        step.detail(&format!("boot file with m1n1 {version}"));
        let file = folder.join(format!("boot-{version}.bin"));
        script.write(&parts, &file)?;
        try_file(&bench, &file, &version, &trees, step)
            .with_context(|| format!("{}, m1n1 {version}", file.display()))?;
        versions.push(version);
    }
    Ok(format!("m1n1 {}, {} Macs", versions.join(" and "), trees.len()))
}

fn try_file(
    bench: &Bench,
    file: &Path,
    version: &str,
    trees: &[PathBuf],
    step: &Step,
) -> Result<()> {
    let kernel = file.with_extension("kernel");
    let found = inspect(file, &kernel)?;
    let at = |pointer: &str| found.pointer(pointer).unwrap_or(&Value::Null);
    let named = at("/boot_file/version").as_str().unwrap_or_default();
    ensure!(named.trim_start_matches('v') == version, "m1n1's version is read as `{named}`");
    ensure!(at("/boot_file/end/kind") == "end-of-file", "it ends at {}", at("/boot_file/end"));
    for list in ["/taken/errors", "/taken/warnings"] {
        ensure!(at(list).as_array().is_some_and(Vec::is_empty), "{list}: {}", at(list));
    }
    ensure!(at("/taken/chosen") == &serde_json::json!(CHOSEN), "{}", at("/taken/chosen"));
    let image = fs::read(&kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
    ensure!(image == bench.image, "the kernel in it is not the packed image");
    check_trees(file, at("/taken/trees"), trees)?;
    // m1n1 makes properties of the variables, and enters the image.
    let chosen = CHOSEN.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let mac = Mac { cpus: 2, chosen, ..Mac::default() };
    let name = format!("the image of a boot file, m1n1 {version}");
    expect(&bench.passes(&name, &mac, step)?, DEBUG_LINE)
}

/// The file's contents, as the command prints them.
fn inspect(file: &Path, kernel: &Path) -> Result<Value> {
    let mut line = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    line.current_dir(workspace::root())
        .args(["run", "--quiet", "--package", "oche", "--", "inspect", "--json"])
        .arg("--extract-kernel")
        .arg(kernel)
        .arg(file);
    let text = command::text(&mut line, "oche inspect")?;
    serde_json::from_str(&text).context("what `oche inspect --json` prints")
}

/// Each compiled tree is at the place that was found for its Mac.
fn check_trees(file: &Path, taken: &Value, trees: &[PathBuf]) -> Result<()> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let taken: Vec<(String, u64)> = serde_json::from_value(taken.clone()).context("the trees")?;
    ensure!(taken.len() == trees.len(), "{} trees are found of {}", taken.len(), trees.len());
    for tree in trees {
        let compiled = fs::read(tree).with_context(|| format!("cannot read {}", tree.display()))?;
        let name = tree.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mac = name.replacen("t8103-", "apple,", 1);
        let Some((_, offset)) = taken.iter().find(|(found, _)| *found == mac) else {
            bail!("no tree is found for {mac}");
        };
        let there = bytes.get(*offset as usize..).unwrap_or_default();
        ensure!(there.starts_with(&compiled), "the tree at {offset:#x} is not {mac}'s");
    }
    Ok(())
}
