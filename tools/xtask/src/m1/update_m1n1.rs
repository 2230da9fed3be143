//! Debian's own `update-m1n1`, which writes m1n1's boot file on a Mac, with Debian's m1n1.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use oche::progress::Step;
use oche::{command, workspace};

use crate::guest::archive::{self, Archive};

/// Runs the script `$0` with the argument `$1`. It keeps a file in `/run`, so it gets a `/run` of
/// its own where the machine allows a mount namespace: as root of a user namespace, or as root.
/// Elsewhere, as in a container or a chroot, the file is removed again.
const WITH_OWN_RUN: &str = r#"
own='mount -t tmpfs tmpfs /run'
for namespaces in '--user --map-root-user --mount' --mount; do
    if unshare $namespaces sh -c "$own" 2>/dev/null; then
        exec unshare $namespaces sh -c "$own && exec bash \"\$0\" \"\$1\"" "$0" "$1"
    fi
done
[ -e /run/m1n1.conf ] && { echo "/run/m1n1.conf is there, and not this test's" >&2; exit 1; }
bash "$0" "$1"
status=$?
rm -f /run/m1n1.conf
exit $status
"#;

/// The packages `m1n1` and `asahi-scripts` of one suite, unpacked.
#[derive(Debug)]
pub(crate) struct UpdateM1n1 {
    /// m1n1's version, such as 1.4.21.
    pub(crate) version: String,
    m1n1: PathBuf,
    script: PathBuf,
}

/// What goes into a boot file.
#[derive(Debug)]
pub(crate) struct BootFileParts<'a> {
    /// The kernel, not compressed, in U-Boot's place.
    pub(crate) kernel: &'a Path,
    /// The device trees.
    pub(crate) trees: &'a [PathBuf],
    /// m1n1's configuration, `/etc/m1n1.conf` on a Mac.
    pub(crate) configuration: &'a Path,
}

impl UpdateM1n1 {
    /// Fetches the newest of `suite` that is known, or `is_fresh`: that the archive has.
    ///
    /// # Errors
    ///
    /// The archive cannot be reached or lacks a package.
    pub(crate) fn fetch(suite: &str, is_fresh: bool, folder: &Path, step: &Step) -> Result<Self> {
        let archive = Archive::open(suite)?;
        if is_fresh {
            archive.update(step)?;
        }
        let m1n1 = archive.package("m1n1", "arm64", step)?;
        let scripts = archive.package("asahi-scripts", "all", step)?;
        let upstream =
            m1n1.version.split_once('-').map_or(&*m1n1.version, |(upstream, _)| upstream);
        let version = upstream.to_owned();
        let debs = archive.download(&[m1n1, scripts], step)?;
        let root = folder.join(suite);
        workspace::remove_folder(&root)?;
        archive::unpack(&debs, &root)?;
        // The script looks for its functions beside itself, then in the system.
        let script = root.join("usr/bin/update-m1n1");
        let functions = root.join("usr/share/asahi-scripts/functions.sh");
        fs::copy(&functions, script.with_file_name("functions.sh"))
            .with_context(|| format!("cannot copy {}", functions.display()))?;
        Ok(Self { version, m1n1: root.join("usr/lib/m1n1/m1n1.bin"), script })
    }

    /// Runs the script, unchanged, to write the boot file `into`.
    ///
    /// # Errors
    ///
    /// The script fails.
    pub(crate) fn write(&self, parts: &BootFileParts<'_>, into: &Path) -> Result<()> {
        let trees: Vec<String> =
            parts.trees.iter().map(|tree| tree.display().to_string()).collect();
        let mut script = Command::new("sh");
        script
            .args(["-c", WITH_OWN_RUN])
            .arg(&self.script)
            .arg(into)
            .env("M1N1", &self.m1n1)
            .env("U_BOOT", parts.kernel)
            .env("DTBS", trees.join(" "))
            .env("CONFIG", parts.configuration)
            .env_remove("M1N1_UPDATE_DISABLED")
            .env_remove("TARGET");
        command::run(&mut script, "update-m1n1")
    }
}
