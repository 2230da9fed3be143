//! A release's `oche` in a base system that has nothing else of Oche, and no compiler.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use oche::progress::Step;
use oche::{command, workspace};

use super::system::{Packages, ScratchSystem, release_program};
use crate::guest::kernel::{self, KernelChoice};
use crate::test::boot_file::Sources;

/// Debian's current stable and the newest.
const SUITES: [&str; 2] = ["trixie", "sid"];
/// An option to pack.
const OPTION: &str = "oche.pool=96M";
/// U-Boot, from the top of a system.
const U_BOOT: &str = "/usr/lib/u-boot/apple_m1/u-boot-nodtb.bin";

/// Packs Debian's U-Boot, checks a kernel, and installs into a system of real packages, has its
/// script run again, and removes, all by the `oche` in the base system at `base`.
///
/// # Errors
///
/// The first that went wrong.
pub(crate) fn run_release(base: &Path, sources: &Sources, step: &Step) -> Result<String> {
    let kernel = kernel::fetch(&KernelChoice::stock(), step)?;
    let kernel = add_kernel(&kernel.image, base)?;
    let version = inside(base, &["--version"], &[0])?;
    ensure!(version.lines().count() == 4, "--version names no three images: {version}");
    // Debian's kernel lacks the Mac's drivers, and that is what it has to say.
    inside(base, &["check-kernel", &kernel], &[1])?;
    let trees = sources.kernel.device_trees(step)?;
    for suite in SUITES {
        let packages = Packages::fetch(suite, sources.is_fresh, step)?;
        step.detail(&format!("m1n1 {} of {suite}", packages.m1n1));
        let system = ScratchSystem::make(&base.join(suite), &packages, &trees, step)?;
        let system = system.reached_from(base);
        let u_boot = format!("/{suite}{U_BOOT}");
        inside(base, &["pack", "--u-boot", &u_boot, "--output", "/oche.img"], &[0])?;
        inside(base, &["inspect", "/oche.img.gz"], &[0])?;
        let before = system.files()?;
        system.succeeds(&["install", "--option", OPTION])?;
        system.run_script()?;
        let status = system.status(0)?;
        ensure!(status.pointer("/state") == Some(&"installed".into()), "{status}");
        system.succeeds(&["uninstall"])?;
        system.expect_files(&before).context("after the removal")?;
    }
    let first = version.lines().next().unwrap_or_default();
    Ok(format!("{first}: packs, checks a kernel, installs and uninstalls: {}", SUITES.join(", ")))
}

/// Copies a kernel and the configuration beside it into the base system; returns its place there.
fn add_kernel(image: &Path, base: &Path) -> Result<String> {
    let folder = base.join("boot");
    workspace::create_folder(&folder)?;
    let version = image.file_name().and_then(|name| name.to_str()?.strip_prefix("vmlinuz-"));
    let version = version.with_context(|| format!("{} has no version", image.display()))?;
    for name in [format!("vmlinuz-{version}"), format!("config-{version}")] {
        let from = image.with_file_name(&name);
        std::fs::copy(&from, folder.join(&name)).with_context(|| from.display().to_string())?;
    }
    Ok(format!("/boot/vmlinuz-{version}"))
}

/// Runs the release's `oche`, which must end with one of `codes`; returns what it prints.
fn inside(base: &Path, arguments: &[&str], codes: &[i32]) -> Result<String> {
    let mut line = release_program(base);
    let answer = command::answer(line.args(arguments))?;
    if !answer.status.code().is_some_and(|code| codes.contains(&code)) {
        let errors = String::from_utf8_lossy(&answer.stderr).into_owned();
        bail!("oche {} ({}): {errors}", arguments.join(" "), answer.status);
    }
    Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
}
