//! The runs that may find a mutant, and what they print.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum as _;

use crate::{ordering, test};

/// One run of tests in the copy.
#[derive(Clone, Copy, Debug)]
pub(super) enum Run {
    /// `cargo test` with these arguments.
    Host(&'static [&'static str]),
    /// The steps of `cargo xtask test` with this in their name, up to the first run of the
    /// simulated board that is wrong.
    Board(&'static str),
    /// The same step of the simulated board or of the hostile guest under the ordering checker,
    /// carried out by this program.
    Step(&'static str),
}

/// The runs that can detect a mutant, quick ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum RunSet {
    /// The host tests of the hypervisor's crates and the simulated machine
    Engine,
    /// The host tests of the M1's drivers
    M1Driver,
    /// The runs of the simulated board
    Board,
}

impl RunSet {
    /// Its name in a patch file.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The runs.
    pub(super) fn runs(self) -> &'static [Run] {
        match self {
            Self::Engine => ENGINE,
            Self::M1Driver => &[Run::Host(&["--package", "oche-m1"])],
            Self::Board => &[Run::Board(test::BOARD_STEP)],
        }
    }
}

const ENGINE: &[Run] = &[
    Run::Host(&[
        "--package",
        "oche-types",
        "--package",
        "oche-engine",
        "--package",
        "oche-trace",
        "--package",
        "oche-virtio",
    ]),
    Run::Host(&["--package", "oche-el2", "--lib"]),
    Run::Host(&["--package", "oche-boot", "--lib"]),
    Run::Host(&["--package", "oche-sim", "--test", "break_before_make"]),
    Run::Host(&["--package", "oche-sim", "--test", "trace_port"]),
    Run::Host(&[
        "--package",
        "oche-differential",
        "--test",
        "programs",
        "--test",
        "corpus",
        "--test",
        "contracts",
        "--",
        "--skip",
        "every_injected_fault",
    ]),
];

/// A test program hangs for this long before it counts as failed, in seconds. The longest takes
/// less than one minute.
const TEST_PATIENCE: u32 = 600;
/// The same for all runs of the board together, with what must be built for them: each has a limit
/// of its own.
const BOARD_PATIENCE: u32 = 1200;

/// Failed tests that are named in the table.
const MAX_NAMED: usize = 3;

/// What became of a mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// These tests failed.
    Found(Vec<String>),
    Survived,
}

impl Run {
    /// How it is named in reports.
    pub(super) fn title(self) -> String {
        match self {
            Self::Host(arguments) => arguments.join(" "),
            Self::Board(step) | Self::Step(step) => step.to_owned(),
        }
    }

    /// Carries it out in the tree at `root`, which is built into `build`.
    ///
    /// # Errors
    ///
    /// Something does not build, or the run cannot be made.
    pub(super) fn carry_out(self, root: &Path, build: &Path) -> Result<Fate> {
        let patience = match self {
            Self::Host(_) => TEST_PATIENCE,
            Self::Board(_) | Self::Step(_) => BOARD_PATIENCE,
        };
        let mut command = Command::new("timeout");
        command.args(["--kill-after=10", &patience.to_string()]);
        match self {
            Self::Step(_) => {
                command.arg(std::env::current_exe().context("this program's own path")?)
            }
            _ => command.arg(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())),
        };
        match self {
            Self::Step(step) => command
                .args(["test", "--only", &step.to_lowercase()])
                .env(ordering::FIRST_ONLY, "1"),
            Self::Host(arguments) => command.args(["test", "--no-fail-fast"]).args(arguments),
            Self::Board(step) => command
                .args(["run", "--quiet", "--package", "xtask", "--", "test", "--only"])
                .arg(step.to_lowercase()),
        };
        command.current_dir(root).env("CARGO_TARGET_DIR", build).env("RUST_BACKTRACE", "0");
        // This very program's folder is not the copy's.
        match self {
            Self::Step(_) => command.env("CARGO_MANIFEST_DIR", root.join("tools/xtask")),
            _ => command.env_remove("CARGO_MANIFEST_DIR"),
        };
        command.stdin(Stdio::null());
        let result =
            command.output().map_err(|error| anyhow!("cannot start the tests: {error}"))?;
        let (printed, errors) =
            (String::from_utf8_lossy(&result.stdout), String::from_utf8_lossy(&result.stderr));
        match result.status.code() {
            Some(0) => return Ok(Fate::Survived),
            // The answers of `timeout`: stopped, and killed.
            Some(124 | 137) => return Ok(Fate::Found(vec!["a test that never ends".to_owned()])),
            _ => {}
        }
        let failed = match self {
            Self::Host(_) => failed_tests(&printed),
            Self::Board(_) | Self::Step(_) => failed_run(&errors).into_iter().collect(),
        };
        if failed.is_empty() {
            bail!("it does not build: {}", last_error(&errors));
        }
        Ok(Fate::Found(failed))
    }
}

/// The first few of `tests`, and how many more there are.
pub(super) fn summary(tests: &[String]) -> String {
    let named = tests.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match tests.len().saturating_sub(MAX_NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// The names in lines such as `test guards::a_store_reaches_all_copies ... FAILED`.
pub(super) fn failed_tests(printed: &str) -> Vec<String> {
    let name = |line: &str| {
        let line = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
        Some(line.trim_end_matches(" - should panic").to_owned())
    };
    printed.lines().filter_map(name).collect()
}

/// What a step of the simulated board prints of the run that was wrong; nothing where no run was
/// made.
pub(super) fn failed_run(printed: &str) -> Option<String> {
    printed.lines().find_map(verdict).map(str::to_owned)
}

fn verdict(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let is_ordering = test::ORDERING_VERDICTS.iter().any(|begin| line.starts_with(begin));
    // A violation's own text is long: its rule is enough.
    let end = line.find(" at 0x").unwrap_or(line.len());
    line.strip_prefix(test::BOARD_VERDICT).or(is_ordering.then_some(line.get(..end)).flatten())
}

/// Why nothing could be tried: what a compiler printed, or a step before it failed.
pub(super) fn last_error(printed: &str) -> String {
    let lines: Vec<&str> = printed.lines().map(str::trim).collect();
    let compiler = lines
        .iter()
        .copied()
        .find(|line| line.starts_with("error") && *line != "error: a test failed");
    let step = lines
        .iter()
        .position(|line| line.starts_with("FAILED"))
        .and_then(|at| lines.get(at.checked_sub(1)?));
    compiler.or(step.copied()).unwrap_or("it printed nothing").to_owned()
}
