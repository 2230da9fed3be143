//! Installs QEMU, in a version of today.

use std::fs;

use anyhow::{Context, Result, ensure};
use oche::progress::Step;
use oche::{command, environment};

use crate::guest::archive::Archive;
use crate::guest::toolchain::{codename, host_architecture};
use crate::qemu::{self, OLDEST, PROGRAM};

/// The release whose own QEMU is too old, and the suite that has a newer one for it.
const OLD_RELEASE: &str = "bookworm";
const BACKPORTS: &str = "bookworm-backports";
/// The package of QEMU's program, and those of the same version that it depends on.
const PACKAGES: [&str; 3] = ["qemu-system-arm", "qemu-system-common", "qemu-system-data"];

/// Installs QEMU where it is missing or older than [`OLDEST`]. On Debian 12 its packages come from
/// the backports of the machine's own archive; no source is added to the machine's.
///
/// # Errors
///
/// QEMU is too old and no newer one can be installed. The error gives the remedy.
pub(super) fn prepare(step: &Step) -> Result<()> {
    if is_new()? {
        return Ok(());
    }
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if codename(&release) == Some(OLD_RELEASE) {
        install_backport(step)?;
    } else if command::is_present("apt-get") {
        environment::install(&PACKAGES[..1], step)?;
    }
    ensure!(
        is_new()?,
        "{PROGRAM} is missing or older than {OLDEST}: install QEMU {OLDEST} or newer by your own \
         means"
    );
    Ok(())
}

fn is_new() -> Result<bool> {
    Ok(command::is_present(PROGRAM) && qemu::version()? >= OLDEST)
}

fn install_backport(step: &Step) -> Result<()> {
    let archive = Archive::open(BACKPORTS)?;
    let packages = PACKAGES
        .iter()
        .map(|name| archive.package(name, host_architecture(), step))
        .collect::<Result<Vec<_>>>()?;
    let files = archive.download(&packages, step)?;
    step.line(&format!("installing QEMU {} of {BACKPORTS}", packages[0].version));
    environment::install_files(&files, step).with_context(|| {
        format!(
            "QEMU {OLDEST} or newer is needed, and Debian 12 has an older one: add {BACKPORTS} to \
             the sources of apt and run `apt-get install -t {BACKPORTS} {}`",
            PACKAGES[0]
        )
    })?;
    for file in files {
        // Installed, it is not needed again.
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    Ok(())
}
