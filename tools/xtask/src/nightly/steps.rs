//! The steps of `cargo xtask nightly`.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use oche::progress::Step;
use oche::workspace;

use super::options::NightlyOptions;
use super::workshop::{cargo, clone, folder, logged, own};
use super::{bare, kernels, release, reproducible};
use crate::environment;
use crate::guest::kernel::KernelSeries;
use crate::m1::device_tree::KernelSource;
use crate::test::boot_file::{self, Sources};
use crate::test::install;
use crate::test::{drivers, mac_trees};

/// A step: it gives a summary of a few words.
pub(super) type Work = fn(&Step, &NightlyOptions) -> Result<String>;

/// All steps, those that find most in little time first.
pub(super) const STEPS: &[(&str, Work)] = &[
    ("Reproducible images for EL2", |step, _| reproducible::run(step)),
    ("Reproducible archives of a release (dist)", |step, _| release::reproducible(step)),
    ("Archive of a release on a bare Debian (dist)", |step, _| release::on_bare_debian(step)),
    ("Demo", |step, _| own(step, "demo", &["demo"])),
    ("Demo on the simulated M1", |step, _| own(step, "demo-m1", &["demo", "--board", "m1-sim"])),
    ("Kernel 6.12 of today, both boards", |step, _| kernels::run(step, KernelSeries::Trixie)),
    ("Newest kernel, both boards", |step, _| kernels::run(step, KernelSeries::Newest)),
    ("U-Boot of today, then the newest kernel", |step, _| kernels::u_boot(step)),
    ("Damaged trace files", damaged_files),
    ("Soak of random programs", |step, options| soak(step, options, "soak", options.ops, &[])),
    ("Soak of hostile sequences", |step, options| {
        soak(step, options, "soak-hostile", options.ops / 100, &["--hostile"])
    }),
    ("Mutants", |step, options| mutants(step, options, "mutants", &["mutants"])),
    ("Mutants of call sites", |step, options| {
        mutants(step, options, "sites", &["mutants", "--sites"])
    }),
    ("Device trees of the newest kernel", newest_trees),
    ("Drivers of a Mac in the newest kernel's source", |step, _| {
        drivers::run(&KernelSource::newest(step)?, step)
    }),
    ("Boot file of m1n1, of the newest packages", newest_boot_file),
    ("Installation: each call fails or kills, Debian 13", |step, _| faults("trixie", step)),
    ("Installation: each call fails or kills, sid", |step, _| faults("sid", step)),
    ("Tests in a fresh clone", fresh_clone),
    ("Quick start on a bare Debian 13", |step, _| bare::run("trixie", step)),
    ("Quick start on a bare Debian 12", |step, _| bare::run("bookworm", step)),
];

/// ENOSPC, EIO and SIGKILL at each write, rename and synchronization of an installation.
fn faults(suite: &str, step: &Step) -> Result<String> {
    let toolchain = environment::prepare(step)?;
    let sources = Sources { kernel: KernelSource::of_the_board(step)?, is_fresh: false };
    install::run_faults(toolchain, &sources, suite, step)
}

/// Random programs, or hostile sequences, from a fresh seed; or the rest of a run before.
fn soak(
    step: &Step,
    options: &NightlyOptions,
    name: &str,
    ops: u64,
    more: &[&str],
) -> Result<String> {
    let state = folder().join(format!("{name}.json"));
    let path = state.display().to_string();
    let mut arguments = vec!["soak", "--state", &path];
    arguments.extend(more);
    if options.resume && state.is_file() {
        let resumed = own(step, name, &[arguments.as_slice(), &["--resume"]].concat());
        match resumed {
            Err(error) if format!("{error:#}").contains("begin a new run") => {
                step.line(&format!("{error:#}"));
            }
            answer => return answer,
        }
    }
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_secs());
    let (ops, seed) = (ops.to_string(), seed.to_string());
    step.line(&format!("seed {seed}"));
    own(step, name, &[arguments.as_slice(), &["--ops", &ops, "--seed", &seed]].concat())
}

fn mutants(
    step: &Step,
    options: &NightlyOptions,
    name: &str,
    arguments: &[&str],
) -> Result<String> {
    let only = options.mutants_only.iter().flat_map(|word| ["--only", word.as_str()]);
    // A site that has a verdict counts as detected with `--resume`: at night each is tried.
    let resume = (options.resume && name == "mutants").then_some("--resume");
    own(step, name, &arguments.iter().copied().chain(resume).chain(only).collect::<Vec<_>>())
}

/// Reads many trace files with random damage.
fn damaged_files(step: &Step, options: &NightlyOptions) -> Result<String> {
    let mut cargo = cargo(&workspace::root());
    cargo.args(["test", "--release", "-p", "oche", "--lib", "wild_files"]);
    cargo.env("OCHE_INPUTS", options.inputs.to_string());
    let last = logged(step, "damaged-files", cargo)?;
    if !last.contains("test result: ok. 1 passed") {
        bail!("the test did not run: {last}");
    }
    Ok(format!("{} files", options.inputs))
}

/// Every M1 Mac's tree of the newest kernel source that Debian has.
fn newest_trees(step: &Step, _: &NightlyOptions) -> Result<String> {
    environment::prepare(step)?;
    mac_trees::run(&KernelSource::newest(step)?, step)
}

/// Boot files by the newest packages that Debian has, with the newest trees.
fn newest_boot_file(step: &Step, _: &NightlyOptions) -> Result<String> {
    let toolchain = environment::prepare(step)?;
    let sources = Sources { kernel: KernelSource::newest(step)?, is_fresh: true };
    boot_file::run(toolchain, &sources, step)
}

/// Runs the test command in a clone that has nothing but what is committed.
fn fresh_clone(step: &Step, options: &NightlyOptions) -> Result<String> {
    let clone = clone(step, "clone")?;
    let mut cargo = cargo(&clone);
    cargo.args(["xtask", "test"]);
    cargo.args(options.test_only.iter().flat_map(|word| ["--only", word.as_str()]));
    let last = logged(step, "clone", cargo)?;
    workspace::remove_folder(&clone)?;
    Ok(last)
}
