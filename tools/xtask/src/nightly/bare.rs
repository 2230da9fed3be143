//! `cargo xtask setup` on a Debian that has nothing but its base system.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use oche::progress::Step;
use oche::{command, workspace};

use super::workshop::{clone, folder, logged};
use crate::guest::sources;
use crate::runner::NotRun;

/// The release that the documents name as enough.
const SUITE: &str = "bookworm";
/// What a person has before `cargo xtask` can start, besides Rust.
const BEFORE: &str = "ca-certificates gcc libc6-dev git";

/// Makes a base system by debootstrap and runs `cargo xtask setup` in it, as root.
///
/// # Errors
///
/// The set-up fails; [`NotRun`] where this machine cannot make such a system.
pub(super) fn run(step: &Step) -> Result<String> {
    let user = command::text(Command::new("id").arg("-u"), "finding the user")?;
    if user.trim() != "0" {
        return Err(NotRun("only root can make a base system".into()).into());
    }
    for program in ["debootstrap", "unshare", "chroot"] {
        if !command::is_present(program) {
            return Err(NotRun(format!("{program} is not installed")).into());
        }
    }
    let can_mount = command::answer(Command::new("unshare").args(["--mount", "true"]))?;
    if !can_mount.status.success() {
        return Err(NotRun("mounts are not allowed here".into()).into());
    }
    let root = folder().join("bare");
    workspace::remove_folder(&root)?;
    let archive = sources::main_archive()?;
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.args(["--variant=minbase", SUITE]).arg(&root).arg(&archive);
    logged(step, "debootstrap", debootstrap)?;
    let tree = clone(step, "bare/oche")?;
    let set_up = in_bare(step, &root);
    workspace::remove_folder(&tree)?;
    set_up?;
    workspace::remove_folder(&root)?;
    Ok("all that the set-up needs was installed".to_owned())
}

/// Runs the set-up in a mount namespace of its own, so that its mounts end with it.
fn in_bare(step: &Step, root: &Path) -> Result<String> {
    let toolchain = command::text(Command::new("rustc").args(["--print", "sysroot"]), "rustc")?;
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
         cp -L /etc/resolv.conf \"$root/etc/\"; rm -rf \"$root/etc/apt\"; cp -r /etc/apt \"$root/etc/\"\n\
         exec chroot \"$root\" env -i HOME=/root TERM=dumb CARGO_HOME=/cargo \\\n\
           PATH=/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin sh -ec '\n\
           apt-get update -q; apt-get install -yq --no-install-recommends {BEFORE}\n\
           cd /oche; cargo xtask setup'"
    );
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", &script, "sh"]).arg(root).arg(toolchain.trim()).arg(home);
    logged(step, "bare", unshare)
}
