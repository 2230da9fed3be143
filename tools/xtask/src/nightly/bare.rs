//! The commands of the README on a Debian that has nothing but its base system, Rust and a C
//! compiler.
//!
//! The packages come from the archive of this machine, through the proxies that its apt uses. Rust
//! and the packages of crates are this machine's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use oche::progress::Step;
use oche::{command, workspace};

use super::workshop::{clone, folder, logged};
use crate::guest::sources;
use crate::runner::NotRun;

/// The packages that `cargo xtask` needs to start, besides Rust.
const BEFORE: &str = "ca-certificates gcc libc6-dev git";
/// What runs there: the set-up, the quick start with less data, and a device whose option ROM is
/// not installed.
const COMMANDS: [&str; 5] = [
    "cargo xtask setup",
    "cargo xtask demo --short",
    "cargo run -q -p oche -- trace report target/demo/trace.oche",
    "cargo xtask demo --board m1-sim --short",
    // Leaves the shell as soon as there is one.
    "while sleep 5; do echo exit; done | cargo xtask run --limit 200 -- -device e1000e",
];

/// Makes a base system of the release `suite` by debootstrap and runs [`COMMANDS`] in it, as root.
///
/// # Errors
///
/// A command fails; [`NotRun`] where this machine cannot make such a system.
pub(super) fn run(suite: &str, step: &Step) -> Result<String> {
    let mut mount = Command::new("unshare");
    mount.args(["--mount", "mount", "-t", "proc", "proc", "/proc"]);
    if !command::answer(&mut mount)?.status.success() {
        return Err(NotRun("mounts are not allowed here".into()).into());
    }
    let toolchain = command::text(Command::new("rustc").args(["--print", "sysroot"]), "rustc")?;
    let toolchain = toolchain.trim();
    // A distribution's compiler cannot be shown to the base system without all other programs.
    if toolchain == "/usr" {
        return Err(NotRun("rustc is the distribution's, and not rustup's".into()).into());
    }
    let root = base_system(suite, step)?;
    set_apt_sources(&root, suite)?;
    let tree = clone(step, "bare/oche")?;
    let ran = in_bare(step, &root, toolchain, suite);
    workspace::remove_folder(&tree)?;
    ran?;
    workspace::remove_folder(&root)?;
    Ok(format!("{} commands ran on {suite}", COMMANDS.len()))
}

/// Makes a base system of the release `suite` by debootstrap, and returns its root folder.
///
/// # Errors
///
/// debootstrap fails; [`NotRun`] where this machine cannot make such a system.
pub(super) fn base_system(suite: &str, step: &Step) -> Result<PathBuf> {
    let user = command::text(Command::new("id").arg("-u"), "finding the user")?;
    if user.trim() != "0" {
        return Err(NotRun("only root can make a base system".into()).into());
    }
    for program in ["debootstrap", "unshare", "chroot"] {
        if !command::is_present(program) {
            return Err(NotRun(format!("{program} is not installed")).into());
        }
    }
    let root = folder().join("bare");
    workspace::remove_folder(&root)?;
    let archive = sources::main_archive()?;
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.args(["--variant=minbase", suite]).arg(&root).arg(&archive);
    logged(step, "debootstrap", debootstrap)?;
    Ok(root)
}

/// Makes apt in the base system use this machine's archive and proxies, for `suite`.
fn set_apt_sources(root: &Path, suite: &str) -> Result<()> {
    let apt = root.join("etc/apt");
    let sources = sources::for_suite(suite)?;
    let settings = command::text(Command::new("apt-config").arg("dump"), "apt's settings")?;
    // In place of debootstrap's own list, which has no updates.
    fs::write(apt.join("sources.list"), "")
        .and_then(|()| fs::write(apt.join("sources.list.d/debian.sources"), sources))
        .and_then(|()| fs::write(apt.join("apt.conf"), transport_settings(&settings)))
        .context("apt's settings in the base system")
}

/// The lines of `apt-config dump` about HTTP, such as proxies and certificates.
fn transport_settings(dump: &str) -> String {
    let is_kept =
        |line: &&str| line.starts_with("Acquire::http::") || line.starts_with("Acquire::https::");
    dump.lines().filter(is_kept).map(|line| format!("{line}\n")).collect()
}

/// Runs the commands in a mount namespace of its own, so that its mounts end with it.
fn in_bare(step: &Step, root: &Path, toolchain: &str, suite: &str) -> Result<String> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let home = home.context("neither CARGO_HOME nor HOME is set")?;
    if !home.is_dir() {
        bail!("there is no {}", home.display());
    }
    let script = format!(
        "set -e; root=$1\n\
         mkdir -p \"$root/rust\" \"$root/cargo\"\n\
         mount --bind \"$2\" \"$root/rust\"; mount --bind \"$3\" \"$root/cargo\"\n\
         mount -t proc proc \"$root/proc\"\n\
         cp -L /etc/resolv.conf \"$root/etc/\"\n\
         exec chroot \"$root\" env -i HOME=/root TERM=dumb CARGO_HOME=/cargo \\\n\
           DEBIAN_FRONTEND=noninteractive \\\n\
           PATH=/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin sh -ec '\n\
           apt-get update -q; apt-get install -yq --no-install-recommends {BEFORE}\n\
           cd /oche\n\
           {}'",
        COMMANDS.join("\n")
    );
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", &script, "sh"]).arg(root).arg(toolchain).arg(home);
    logged(step, &format!("bare-{suite}"), unshare)
}

#[cfg(test)]
mod tests {
    use super::transport_settings;

    #[test]
    fn proxies_are_taken_over_and_hooks_are_not() {
        let dump = "APT::Update::Post-Invoke:: \"rm -f /var/cache/x\";\n\
                    Acquire::Languages \"none\";\n\
                    Acquire::http::Proxy \"http://proxy:3128\";\n\
                    Acquire::https::CAInfo \"/etc/ca.pem\";\n";
        assert_eq!(
            transport_settings(dump),
            "Acquire::http::Proxy \"http://proxy:3128\";\nAcquire::https::CAInfo \"/etc/ca.pem\";\n"
        );
    }
}
