//! `cargo xtask soak --hostile`: random hostile sequences, in batches, to be stopped and continued.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use oche::el2::{self, Toolchain};
use oche::progress::{Progress, Step};
use oche::{command, workspace};
use serde::{Deserialize, Serialize};

use crate::hostile::{self, random};

/// Operations of a batch; each has a seed of its own, the run's and the batch's number.
const BATCH: u64 = 1_000_000;
/// Of a thousand operations, those that run instructions in QEMU, a thousand a second, and those on
/// queues; the others are on registers.
const INSTRUCTIONS_OF_THOUSAND: u64 = 25;
const QUEUES_OF_THOUSAND: u64 = 375;
/// The test of the NVMe's queues, and the variables that it takes.
const QUEUES: &str = "random_registers_queues_and_doorbells_stay_within_bounds";
const QUEUES_COUNT: &str = "OCHE_OPERATIONS";
const QUEUES_SEED: &str = "OCHE_SEED";

/// Operations by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Operations {
    /// Accesses to registers of the engine's DARTs.
    registers: u64,
    /// Stores to the NVMe's queues, lists and doorbells.
    queues: u64,
    /// Programs of random words, in QEMU.
    instructions: u64,
}

impl Operations {
    fn of(all: u64) -> Self {
        let part = |of_thousand| all / 1000 * of_thousand;
        let (instructions, queues) = (part(INSTRUCTIONS_OF_THOUSAND), part(QUEUES_OF_THOUSAND));
        Self { registers: all - queues - instructions, queues, instructions }
    }

    fn all(self) -> u64 {
        self.registers + self.queues + self.instructions
    }

    fn add(&mut self, other: Self) {
        self.registers += other.registers;
        self.queues += other.queues;
        self.instructions += other.instructions;
    }
}

impl std::fmt::Display for Operations {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { registers, queues, instructions } = self;
        write!(
            out,
            "{} hostile operations ({registers} on registers, {queues} on queues, ",
            self.all()
        )?;
        write!(out, "{instructions} programs of random instructions)")
    }
}

/// The progress of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct State {
    commit: String,
    seed: u64,
    wanted: u64,
    batches: u64,
    operations: Operations,
    seconds: f64,
}

/// The images that run in QEMU.
pub(crate) struct Images {
    oche: PathBuf,
    guest: PathBuf,
}

impl Images {
    /// Builds them.
    pub(crate) fn build(step: &Step) -> Result<Self> {
        let toolchain = Toolchain::choose(step)?;
        let guest = hostile::flat_guest(toolchain, step)?;
        Ok(Self { oche: el2::build(toolchain, &[], step)?, guest })
    }
}

/// Runs `all` operations that follow from `seed`.
pub(crate) fn batch(images: &Images, seed: u64, all: u64, step: &Step) -> Result<Operations> {
    let operations = Operations::of(all);
    step.detail(&format!("seed {seed}: {} accesses to registers", operations.registers));
    let mut registers = cargo(&[
        "run",
        "--quiet",
        "--profile",
        "soak",
        "--package",
        "oche-differential",
        "--bin",
        "registers",
    ]);
    registers.args(["--", &operations.registers.to_string(), &seed.to_string()]);
    expect(&mut registers, "no difference", &format!("registers, seed {seed}"))?;
    step.detail(&format!("seed {seed}: {} operations on queues", operations.queues));
    let mut queues = cargo(&["test", "--profile", "soak", "--package", "oche-m1", "--lib", QUEUES]);
    queues.env(QUEUES_COUNT, operations.queues.to_string()).env(QUEUES_SEED, seed.to_string());
    expect(&mut queues, "test result: ok. 1 passed", &format!("queues, seed {seed}"))?;
    random::run(&images.oche, &images.guest, seed, operations.instructions, step)?;
    Ok(operations)
}

fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).current_dir(workspace::root());
    cargo
}

fn expect(program: &mut Command, wanted: &str, what: &str) -> Result<()> {
    let output = command::text(program, what)?;
    if !output.contains(wanted) {
        bail!("{what}: it does not print `{wanted}`:\n{output}");
    }
    Ok(())
}

/// The state of a run of `wanted` operations that begins at `commit`.
pub(super) fn begin(commit: String, seed: u64, wanted: u64) -> State {
    State { commit, seed, wanted, batches: 0, operations: Operations::default(), seconds: 0.0 }
}

/// Carries out `cargo xtask soak --hostile` from `state` on, which is kept at `path`. Gives the
/// result in words, or as JSON.
pub(super) fn run(mut state: State, path: &Path, is_json: bool) -> Result<String> {
    let progress = Progress::new(1);
    let step = progress.step("Random hostile sequences");
    let images = Images::build(&step)?;
    while state.operations.all() < state.wanted {
        let began = Instant::now();
        let operations = BATCH.min(state.wanted - state.operations.all());
        state.operations.add(batch(
            &images,
            state.seed.wrapping_add(state.batches),
            operations,
            &step,
        )?);
        state.batches += 1;
        state.seconds += began.elapsed().as_secs_f64();
        workspace::write_whole(path, &serde_json::to_vec_pretty(&state)?)?;
        step.line(&summary(&state));
    }
    step.done("nothing found");
    Ok(if is_json { serde_json::to_string(&state)? } else { summary(&state) })
}

/// The state at `path`, of a run at the same `commit`.
pub(super) fn read(path: &Path, commit: &str) -> Result<State> {
    let text =
        std::fs::read(path).with_context(|| format!("no run to go on with: {}", path.display()))?;
    let state: State = serde_json::from_slice(&text)
        .with_context(|| format!("{} is not the state of a hostile run", path.display()))?;
    if state.commit != commit || commit.ends_with("-dirty") {
        bail!(
            "{} is a run of commit {}, and this is {commit}: begin a new run",
            path.display(),
            state.commit
        );
    }
    Ok(state)
}

fn summary(state: &State) -> String {
    let State { commit, seed, operations, seconds, .. } = state;
    format!("{operations}, seed {seed}, commit {commit}: nothing found ({seconds:.0} s)")
}

#[cfg(test)]
mod tests {
    use super::Operations;

    #[test]
    fn operations_of_all_kinds_add_up_to_what_was_asked_for() {
        for all in [0, 7, 1_000_000, 12_345_678] {
            assert_eq!(Operations::of(all).all(), all);
        }
        assert_eq!(
            Operations::of(1000),
            Operations { registers: 600, queues: 375, instructions: 25 }
        );
    }
}
