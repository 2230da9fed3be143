//! Finds and installs the packages that the machine must have.
//!
//! A fresh Debian with rustup's host toolchain is enough to begin with; everything else comes from
//! the distribution's own archive.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;
use crate::el2::Toolchain;
use crate::needs::{NEEDS, Need, Purpose, Sign};
use crate::progress::Step;

/// How long apt-get waits for another package manager, in seconds.
const LOCK_SECONDS: u32 = 120;

/// Finds the compiler for EL2, and installs it and what `purposes` need where it is missing.
///
/// # Errors
///
/// The machine is not a Debian, this user may not install packages, the archive cannot be reached,
/// or the disk is full. Each error gives the remedy.
pub fn prepare(purposes: &[Purpose], step: &Step) -> Result<Toolchain> {
    let toolchain = Toolchain::choose(step)?;
    let compiler: &[Purpose] =
        if toolchain == Toolchain::Debian { &[Purpose::Compiler] } else { &[] };
    install_missing(&[purposes, compiler].concat(), step)?;
    Ok(toolchain)
}

/// Installs what `purposes` need where it is missing.
///
/// # Errors
///
/// As for [`prepare`].
pub fn install_missing(purposes: &[Purpose], step: &Step) -> Result<()> {
    let missing = missing_for(purposes);
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing, step)?;
    let still = missing_for(purposes);
    if !still.is_empty() {
        bail!(
            "{} is installed but lacks what Oche needs: see `cargo xtask setup` in the README",
            still.join(", ")
        );
    }
    Ok(())
}

/// Installs or updates packages whose files were fetched from elsewhere; what they depend on comes
/// from the machine's own archive. No package is removed for their sake.
///
/// # Errors
///
/// As for [`prepare`]; or a package that is installed does not agree with these.
pub fn install_files(files: &[PathBuf], step: &Step) -> Result<()> {
    let list: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let root = Root::find().with_context(|| {
        let list = list.join(" ");
        format!("packages must be installed; as root, run `apt-get install --no-install-recommends {list}`")
    })?;
    let list: Vec<&str> = list.iter().map(String::as_str).collect();
    if root.install(&list).is_ok() {
        return Ok(());
    }
    // The lists may never have been read.
    root.update(step);
    root.install(&list)
}

/// The packages that are missing for `purposes`, each once.
fn missing_for(purposes: &[Purpose]) -> Vec<&'static str> {
    missing_of(NEEDS.iter().filter(|need| purposes.contains(&need.purpose)))
}

fn missing_of<'a>(needs: impl IntoIterator<Item = &'a Need>) -> Vec<&'static str> {
    let mut missing: Vec<_> =
        needs.into_iter().filter(|need| !is_present(need.sign)).map(|need| need.package).collect();
    missing.sort_unstable();
    missing.dedup();
    missing
}

fn is_present(sign: Sign) -> bool {
    match sign {
        Sign::Program(name) => command::is_present(name),
        Sign::File(path) => Path::new(path).exists(),
        Sign::PythonModules(names) => Command::new("python3")
            .args(["-c", &format!("import {names}")])
            .output()
            .is_ok_and(|run| run.status.success()),
    }
}

/// Installs packages of the machine's own distribution.
///
/// # Errors
///
/// As for [`prepare`].
pub fn install(packages: &[&str], step: &Step) -> Result<()> {
    let list = packages.join(" ");
    if !command::is_present("apt-get") {
        bail!(
            "these are missing: {list}; this is not a Debian, so install what they hold by your own means"
        );
    }
    let root = Root::find().with_context(|| {
        format!("these packages are missing: {list}; as root, run `apt-get install --no-install-recommends {list}`")
    })?;
    if packages.iter().any(|package| !is_known(package)) {
        root.update(step);
    }
    let unknown: Vec<_> = packages.iter().filter(|package| !is_known(package)).copied().collect();
    if !unknown.is_empty() {
        bail!(
            "apt-get offers no {}: connect to a network and see that /etc/apt names Debian 12 or newer (main), then \
             run it again",
            unknown.join(", ")
        );
    }
    step.line(&format!("installing {list}"));
    if root.install(packages).is_ok() {
        return Ok(());
    }
    // The lists may be older than the archive, which then no longer has these versions.
    root.update(step);
    root.install(packages)
}

/// Whether the package lists that the machine has name a version of it to install.
fn is_known(package: &str) -> bool {
    let answer = Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C").output();
    answer.is_ok_and(|answer| has_candidate(&String::from_utf8_lossy(&answer.stdout)))
}

fn has_candidate(policy: &str) -> bool {
    policy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Candidate:"))
        .any(|version| version.trim() != "(none)")
}

/// The way to install packages.
#[derive(Clone, Copy, Debug)]
enum Root {
    /// This is root already.
    Already,
    /// sudo asks nothing, or there is a terminal to ask on.
    Sudo { may_ask: bool },
}

impl Root {
    fn find() -> Result<Self> {
        let user = command::text(Command::new("id").arg("-u"), "asking who runs this")?;
        if user.trim() == "0" {
            return Ok(Self::Already);
        }
        if !command::is_present("sudo") {
            bail!("only root may install packages, and there is no sudo");
        }
        let asks_nothing = Command::new("sudo")
            .args(["-n", "true"])
            .output()
            .is_ok_and(|run| run.status.success());
        let may_ask = std::io::stdin().is_terminal();
        if !asks_nothing && !may_ask {
            bail!(
                "only root may install packages, and sudo wants a password but there is no terminal to ask on"
            );
        }
        Ok(Self::Sudo { may_ask: !asks_nothing })
    }

    fn apt_get(self) -> Command {
        let settings = ["LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"];
        let mut command = Command::new(match self {
            Self::Already => "env",
            Self::Sudo { .. } => "sudo",
        });
        if let Self::Sudo { may_ask } = self {
            if !may_ask {
                command.arg("-n");
            }
            command.arg("env");
        }
        command.args(settings).arg("apt-get");
        command.args(["-y", "-q", "-o", &format!("DPkg::Lock::Timeout={LOCK_SECONDS}")]);
        command.args([
            "-o",
            "Acquire::Retries=3",
            "-o",
            "Acquire::http::Timeout=20",
            "-o",
            "Dpkg::Use-Pty=0",
        ]);
        command
    }

    /// Reads the lists anew. One broken foreign source must not stop the rest, so the outcome is
    /// judged by what the lists then offer.
    fn update(self, step: &Step) {
        step.detail("reading the package lists (apt-get update)");
        let _ = self.on_terminal(step, || {
            command::run(self.apt_get().arg("update"), "reading the package lists")
        });
    }

    fn install(self, packages: &[&str]) -> Result<()> {
        let mut command = self.apt_get();
        command.args(["install", "--no-install-recommends", "--no-remove"]).args(packages);
        command::run(&mut command, "installing packages with apt-get")
    }

    /// Lets sudo ask for its password on a clean line.
    fn on_terminal<Answer>(self, step: &Step, work: impl FnOnce() -> Answer) -> Answer {
        match self {
            Self::Sudo { may_ask: true } => step.suspended(|| {
                let _ = Command::new("sudo").arg("-v").status();
                work()
            }),
            _ => work(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{has_candidate, missing_of};
    use crate::needs::{Need, Purpose, Sign};

    #[test]
    fn only_what_is_missing_is_named() {
        let lacks = |sign, package| Need { purpose: Purpose::Guest, sign, package };
        let needs: [Need; 4] = [
            lacks(Sign::Program("sh"), "dash"),
            lacks(Sign::Program("no-such-program-here"), "nothing"),
            lacks(Sign::Program("no-other-program-here"), "nothing"),
            lacks(Sign::File("/no/such/file"), "nothing-either"),
        ];
        assert_eq!(missing_of(&needs), ["nothing", "nothing-either"]);
    }

    #[test]
    fn a_package_without_a_candidate_is_unknown() {
        assert!(has_candidate("make:\n  Installed: (none)\n  Candidate: 4.3-4.1\n"));
        assert!(!has_candidate("make:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(!has_candidate(""));
    }
}
