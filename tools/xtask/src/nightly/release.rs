//! The archives of a release: the same bytes wherever they are made, and of use on a system that
//! has nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use oche::progress::Step;
use oche::{command, source_paths, workspace};

use super::bare;
use super::workshop::{cargo, clone, folder, logged, own};
use crate::m1::device_tree::KernelSource;
use crate::runner::NotRun;
use crate::test::boot_file::Sources;
use crate::test::install::release::run_release;

/// Runs programs for aarch64 on another CPU. Debian: `qemu-user`.
const EMULATOR: &str = "qemu-aarch64";

/// Makes the archives in two clones of the tree, with two home folders, and compares the two; and
/// runs each program.
///
/// # Errors
///
/// They differ, or a program does not run.
pub(super) fn reproducible(step: &Step) -> Result<String> {
    if std::env::consts::ARCH != "aarch64" && !command::is_present(EMULATOR) {
        return Err(NotRun(command::missing(EMULATOR)).into());
    }
    let mut made = Vec::new();
    for name in ["dist-one", "dist-in-another-folder"] {
        let tree = clone(step, name)?;
        let home = folder().join(format!("home-of-{name}"));
        workspace::remove_folder(&home)?;
        make(&tree, &home, name, step)?;
        made.push(archives(&tree.join("target/dist"))?);
        workspace::remove_folder(&home)?;
    }
    let [one, other] = made.as_slice() else { bail!("two were to be made") };
    let names = |files: &[(String, Vec<u8>)]| -> Vec<String> {
        files.iter().map(|(name, _)| name.clone()).collect()
    };
    ensure!(names(one) == names(other), "{:?} and {:?}", names(one), names(other));
    for ((name, one), (_, other)) in one.iter().zip(other) {
        ensure!(
            one == other,
            "{name} differs: see target/dist of the clones in {}",
            text(&folder())
        );
    }
    let tree = folder().join("dist-one");
    let run = programs(&tree)?;
    for name in ["dist-one", "dist-in-another-folder"] {
        workspace::remove_folder(&folder().join(name))?;
    }
    Ok(format!("{} files are equal; {run}", one.len()))
}

/// Makes the archives in `tree` with cargo's files in `home`, which has no more than this user's
/// settings of cargo.
fn make(tree: &Path, home: &Path, name: &str, step: &Step) -> Result<()> {
    let cargo_home = home.join(".cargo");
    workspace::create_folder(&cargo_home)?;
    let own_home = source_paths::cargo_home().context("neither CARGO_HOME nor HOME is set")?;
    for settings in ["config.toml", "config"] {
        if own_home.join(settings).is_file() {
            fs::copy(own_home.join(settings), cargo_home.join(settings)).context("settings")?;
        }
    }
    let rustup = std::env::var_os("RUSTUP_HOME").map(PathBuf::from);
    let rustup = rustup.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".rustup")));
    let mut dist = cargo(tree);
    dist.args(["xtask", "dist"]).env("HOME", home).env("CARGO_HOME", &cargo_home);
    dist.env("RUSTUP_HOME", rustup.context("HOME is not set")?);
    logged(step, name, dist).map(|_| ())
}

/// The files in `folder`, sorted by name.
fn archives(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let entries = fs::read_dir(folder).with_context(|| format!("no {}", text(folder)))?;
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        files.push((entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?));
    }
    files.sort();
    ensure!(files.len() > 2, "{} has no archives", text(folder));
    Ok(files)
}

/// Runs the program of each archive's build in `tree`.
fn programs(tree: &Path) -> Result<String> {
    let built = tree.join("target/dist-build");
    let mut run = Vec::new();
    for architecture in ["x86_64", "aarch64"] {
        let target =
            ["musl", "gnu"].map(|library| format!("{architecture}-unknown-linux-{library}"));
        let paths = target.map(|target| built.join(target).join("dist/oche"));
        let path = paths.iter().find(|path| path.is_file());
        let path = path.with_context(|| format!("no program for {architecture}"))?;
        let is_own = architecture == std::env::consts::ARCH;
        let mut program = Command::new(if is_own { path.as_path() } else { Path::new(EMULATOR) });
        if !is_own {
            program.arg(path);
        }
        program.env_clear().arg("--version");
        let version = command::text(&mut program, &format!("oche for {architecture}"))?;
        ensure!(version.lines().count() == 4, "oche for {architecture}: {version}");
        run.push(format!("{architecture} runs"));
    }
    Ok(run.join(", "))
}

/// Unpacks the archive for this machine on a base system of Debian, and uses it there.
///
/// # Errors
///
/// As [`run_release`]; [`NotRun`] where this machine cannot make such a system.
pub(super) fn on_bare_debian(step: &Step) -> Result<String> {
    let root = bare::base_system("trixie", step)?;
    let output = folder().join("dist");
    let output_text = output.to_str().context("a path that is no text")?;
    let architecture = std::env::consts::ARCH;
    own(step, "dist", &["dist", "--only", architecture, "--output", output_text])?;
    let name = format!("oche-{}-{architecture}-linux", env!("CARGO_PKG_VERSION"));
    fs::copy(output.join(format!("{name}.tar.gz")), root.join("release.tar.gz"))
        .context("the archive in the base system")?;
    let mut unpack = Command::new("chroot");
    unpack.arg(&root).args(["sh", "-ec"]);
    unpack.arg(format!("tar -xzf release.tar.gz; mv {name} release; ! command -v cc gcc cargo"));
    command::run(&mut unpack, "unpacking the archive")?;
    let sources = Sources { kernel: KernelSource::of_the_board(step)?, is_fresh: false };
    let summary = run_release(&root, &sources, step)?;
    workspace::remove_folder(&root)?;
    Ok(summary)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
