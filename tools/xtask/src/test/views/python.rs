//! The Python package against `oche trace`, under each Python that the machine has.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use oche::progress::Step;
use oche::{command, workspace};

use super::super::live_capture::built_oche;

/// Interpreters that are tried; the package supports 3.9 and later. Debian has one CPython,
/// and a PyPy of an older language: 3.11 and 3.9 in Debian 12, 3.13 and 3.11 in Debian 13.
const INTERPRETERS: [&str; 8] = [
    "/usr/bin/python3",
    "pypy3",
    "python3",
    "python3.9",
    "python3.10",
    "python3.11",
    "python3.12",
    "python3.13",
];

/// The versions that the tests must run under.
const LEAST_VERSIONS: usize = 2;

/// Runs the package's tests on the trace at `trace`; returns the versions that ran them.
pub(super) fn run(trace: &Path, step: &Step) -> Result<String> {
    step.detail("compiling oche");
    let oche = built_oche(step)?;
    let mut versions: Vec<String> = Vec::new();
    for interpreter in INTERPRETERS {
        let asked = Command::new(interpreter)
            .args(["-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
            .output();
        // One that is not there, or a name that stands for none.
        let Some(asked) = asked.ok().filter(|asked| asked.status.success()) else { continue };
        let version = String::from_utf8_lossy(&asked.stdout).trim().to_owned();
        if versions.contains(&version) || !is_supported(&version) {
            continue;
        }
        step.detail(&format!("Python {version}"));
        let mut tests = Command::new(interpreter);
        tests.current_dir(workspace::root().join("python"));
        tests.args(["-m", "unittest", "tests.test_trace"]);
        tests.env("OCHE", &oche).env("OCHE_TRACES", trace).env("PYTHONDONTWRITEBYTECODE", "1");
        let ran = command::answer(&mut tests)?;
        let printed = String::from_utf8_lossy(&ran.stderr).into_owned();
        if !ran.status.success() {
            return Err(command::failure(&tests, &ran, "the tests of the Python package"));
        }
        // No test at all is no success either.
        if !printed.contains("Ran 9 tests") || printed.contains("skipped") {
            bail!("Python {version} prints: {}", printed.trim());
        }
        versions.push(version);
    }
    if versions.len() < LEAST_VERSIONS {
        let found = versions.join(", ");
        let missing = command::missing("pypy3");
        bail!("the tests ran under Python {found} alone, and two versions are needed: {missing}");
    }
    Ok(versions.join(", "))
}

fn is_supported(version: &str) -> bool {
    let numbers = version.split_once('.').context("no version");
    let numbers = numbers
        .ok()
        .and_then(|(major, minor)| Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?)));
    numbers.is_some_and(|numbers| numbers >= (3, 9))
}
