//! The end of a run, from the console and from QEMU's exit status.

use std::process::ExitStatus;

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunEnding {
    /// The machine was switched off in good order.
    PoweredOff,
    /// Oche panicked, with its message.
    OchePanic(String),
    /// Oche gave up at start, with its message.
    OcheFatal(String),
    /// The guest's kernel panicked, with its message.
    KernelPanic(String),
    /// QEMU ended with an error, with the last line of its standard error.
    QemuFailed(String),
    /// Time was up; how long the console had been silent then, in seconds.
    TimedOut {
        /// Seconds since the last line.
        silent_seconds: u64,
    },
    /// The caller saw enough and ended it.
    Ended,
}

impl RunEnding {
    /// Whether the guest went all the way.
    #[must_use]
    pub fn is_good(&self) -> bool {
        *self == Self::PoweredOff
    }
}

impl std::fmt::Display for RunEnding {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PoweredOff => write!(formatter, "the guest powered off"),
            Self::OchePanic(message) => write!(formatter, "Oche panicked: {message}"),
            Self::OcheFatal(message) => write!(formatter, "Oche gave up: {message}"),
            Self::KernelPanic(message) => {
                write!(formatter, "the guest's kernel panicked: {message}")
            }
            Self::QemuFailed(message) => write!(formatter, "QEMU failed: {message}"),
            Self::TimedOut { silent_seconds } => {
                write!(
                    formatter,
                    "time was up, and the console had been silent for {silent_seconds} s"
                )
            }
            Self::Ended => write!(formatter, "the run was ended"),
        }
    }
}

/// How the run ends by one line of the console, if that shows it.
#[must_use]
pub(crate) fn verdict_of(line: &str) -> Option<RunEnding> {
    if let Some(message) = line.strip_prefix("oche: panic:") {
        return Some(RunEnding::OchePanic(message.trim().to_owned()));
    }
    if let Some(message) = line.strip_prefix("oche: fatal:") {
        return Some(RunEnding::OcheFatal(message.trim().to_owned()));
    }
    let (_, message) = line.split_once("Kernel panic - not syncing:")?;
    Some(RunEnding::KernelPanic(message.trim().to_owned()))
}

/// How the run ended by QEMU's exit status and its standard error.
#[must_use]
pub(crate) fn verdict_of_exit(status: ExitStatus, stderr: &str) -> RunEnding {
    if status.success() {
        return RunEnding::PoweredOff;
    }
    let last = stderr.lines().rev().find(|line| !line.trim().is_empty());
    RunEnding::QemuFailed(last.map_or_else(|| status.to_string(), |line| line.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{RunEnding, verdict_of, verdict_of_exit};
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    #[test]
    fn panics_of_oche_and_of_the_guest_are_distinguished() {
        assert_eq!(
            verdict_of("oche: panic: pool.rs:3: x"),
            Some(RunEnding::OchePanic("pool.rs:3: x".into()))
        );
        assert_eq!(
            verdict_of("oche: fatal: no payload"),
            Some(RunEnding::OcheFatal("no payload".into()))
        );
        assert_eq!(
            verdict_of("[    1.5] Kernel panic - not syncing: VFS: no root"),
            Some(RunEnding::KernelPanic("VFS: no root".into()))
        );
        assert_eq!(verdict_of("[    1.5] a guest may print oche: panic: too"), None);
        assert_eq!(verdict_of("oche: 4 CPUs"), None);
    }

    #[test]
    fn qemus_last_word_explains_its_failure() {
        let failed = ExitStatus::from_raw(1 << 8);
        let stderr = "warning: x\nqemu-system-aarch64: -cpu nope: no such CPU\n\n";
        assert_eq!(
            verdict_of_exit(failed, stderr),
            RunEnding::QemuFailed("qemu-system-aarch64: -cpu nope: no such CPU".into())
        );
        assert_eq!(verdict_of_exit(ExitStatus::from_raw(0), stderr), RunEnding::PoweredOff);
    }
}
