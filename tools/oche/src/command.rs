//! Other programs, run with their output kept and their failures reported in one line.

use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, anyhow, bail};

use crate::progress::Step;
use crate::{needs, workspace};

/// Runs a program to its end and gives its standard output.
///
/// `what` names the work in the error, as in "building the module". The whole output of a failed
/// program is kept in `target/logs/`.
///
/// # Errors
///
/// The program is missing, cannot start, or ends with a code other than 0.
pub fn output(command: &mut Command, what: &str) -> Result<Vec<u8>> {
    let result = answer(command)?;
    if result.status.success() {
        return Ok(result.stdout);
    }
    Err(failure(command, &result, what))
}

/// Runs a program to its end and returns its output, however it ended.
///
/// # Errors
///
/// The program is missing or cannot start.
pub fn answer(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().map_err(|error| cannot_start(command, &error))
}

/// Runs a program to its end and drops its output unless it fails.
///
/// # Errors
///
/// As [`output`].
pub fn run(command: &mut Command, what: &str) -> Result<()> {
    output(command, what).map(|_| ())
}

/// Runs a program to its end and gives its standard output as text.
///
/// # Errors
///
/// As [`output`], or the output is not UTF-8.
pub fn text(command: &mut Command, what: &str) -> Result<String> {
    String::from_utf8(output(command, what)?)
        .with_context(|| format!("{what}: the answer is not UTF-8"))
}

/// Runs a compiler to its end; if it fails, prints its messages in full for the developer.
///
/// # Errors
///
/// As [`output`].
pub fn run_showing_errors(command: &mut Command, what: &str, step: &Step) -> Result<()> {
    let result = answer(command)?;
    if result.status.success() {
        return Ok(());
    }
    step.suspended(|| eprint!("{}", String::from_utf8_lossy(&result.stderr)));
    Err(failure(command, &result, what))
}

/// Runs a program whose output goes straight to the terminal.
///
/// # Errors
///
/// As [`output`].
pub fn show(command: &mut Command, what: &str) -> Result<()> {
    let status = command.status().map_err(|error| cannot_start(command, &error))?;
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    Ok(())
}

/// Whether a program of this name is on the search path, or in the folders that only root's path
/// has.
#[must_use]
pub fn is_present(program: &str) -> bool {
    find(program).is_some()
}

/// The path of the program of this name.
#[must_use]
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(Into::into))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// Reports that a program is missing, and how to get it.
#[must_use]
pub fn missing(program: &str) -> String {
    match needs::package_of(program) {
        Some(package) => format!(
            "{program} is missing: run `cargo xtask setup`, or install what Debian's package {package} has"
        ),
        None => format!("{program} is missing: install it"),
    }
}

fn cannot_start(command: &Command, error: &std::io::Error) -> anyhow::Error {
    let program = command.get_program().to_string_lossy();
    if error.kind() == ErrorKind::NotFound {
        anyhow!("{}", missing(&program))
    } else {
        anyhow!("cannot start {program}: {error}")
    }
}

/// Reports a failed program in one line, and keeps its whole output.
#[must_use]
pub fn failure(command: &Command, result: &Output, what: &str) -> anyhow::Error {
    let mut printed = String::from_utf8_lossy(&result.stdout).into_owned();
    printed.push_str(&String::from_utf8_lossy(&result.stderr));
    let kept = keep_log(command, &printed, what);
    let place =
        kept.map_or_else(String::new, |path| format!("; its whole output: {}", path.display()));
    match known_cause(&printed) {
        Some(cause) => anyhow!("{what} failed: {cause}{place}"),
        None => {
            let last = error_line(&printed).unwrap_or_else(|| "it printed nothing".to_owned());
            anyhow!("{what} failed ({}): {last}{place}", result.status)
        }
    }
}

/// The line of a failed program's output that most likely gives the reason.
fn error_line(printed: &str) -> Option<String> {
    let lines = || printed.lines().map(str::trim).filter(|line| !line.is_empty());
    const SIGNS: [&str; 4] = [": error:", ": fatal error:", ": not found", ": command not found"];
    lines()
        .find(|line| {
            line.starts_with("E: ")
                || line.starts_with("error")
                || SIGNS.iter().any(|sign| line.contains(sign))
        })
        .or_else(|| lines().next_back())
        .map(str::to_owned)
}

/// Causes that deserve an instruction instead of a program's own words.
fn known_cause(printed: &str) -> Option<&'static str> {
    const CAUSES: [(&[&str], &str); 5] = [
        (
            &["No space left on device", "not enough free space"],
            "the disk is full: free 2 GiB and run it again",
        ),
        (
            &[
                "Temporary failure resolving",
                "Could not resolve",
                "Network is unreachable",
                "Could not connect to",
                "Unable to connect to",
                "Connection timed out",
            ],
            "the package archive cannot be reached: connect to a network (or name a proxy in /etc/apt/apt.conf.d) \
             and run it again",
        ),
        (
            &["does not have a Release file"],
            "the archive has no such suite: name one of Debian's, such as bookworm or bookworm-backports",
        ),
        (
            &["Could not get lock", "Unable to acquire the dpkg frontend lock"],
            "another package manager is running: wait until it has finished and run it again",
        ),
        (
            &["are you root?", "Permission denied"],
            "it may not write there: run it as root, or as a user that may use sudo",
        ),
    ];
    CAUSES
        .iter()
        .find(|(signs, _)| signs.iter().any(|sign| printed.contains(sign)))
        .map(|(_, cause)| *cause)
}

fn keep_log(command: &Command, printed: &str, what: &str) -> Option<std::path::PathBuf> {
    let name: String = what
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' })
        .collect();
    // Without a checkout there is no place of the project's own to keep it in.
    workspace::checkout()?;
    let path = workspace::target().join("logs").join(format!("{name}.log"));
    let whole = format!("{command:?}\n\n{printed}");
    workspace::write_whole(Path::new(&path), whole.as_bytes()).ok().map(|()| path)
}

#[cfg(test)]
mod tests {
    use super::{error_line, known_cause, missing, output};
    use std::process::Command;

    #[test]
    fn a_missing_program_is_named_with_what_to_do() {
        let error =
            output(&mut Command::new("no-such-program-here"), "trying").unwrap_err().to_string();
        assert_eq!(error, "no-such-program-here is missing: install it");
        let known = missing("mkfs.ext4");
        assert!(known.contains("cargo xtask setup") && known.contains("e2fsprogs"), "{known}");
    }

    #[test]
    fn a_failed_programs_error_line_is_preferred_to_its_last_line() {
        let printed = "note: fine\nE: Unable to locate package x\nbye\n";
        assert_eq!(error_line(printed).as_deref(), Some("E: Unable to locate package x"));
        assert_eq!(error_line("one\ntwo\n\n").as_deref(), Some("two"));
        assert_eq!(error_line(" \n"), None);
    }

    #[test]
    fn an_unreachable_archive_and_a_full_disk_get_an_instruction() {
        assert!(
            known_cause("Temporary failure resolving 'x'")
                .is_some_and(|cause| cause.contains("network"))
        );
        assert!(
            known_cause("write: No space left on device")
                .is_some_and(|cause| cause.contains("disk is full"))
        );
        assert_eq!(known_cause("something else"), None);
    }
}
