//! Building Oche itself for EL2, by whichever way the machine offers.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::progress::Step;
use crate::{command, source_paths, stamp, workspace};

/// The target: EL2 code must not touch the guest's floating-point registers.
pub const TARGET: &str = "aarch64-unknown-none-softfloat";
/// The cargo profile, from the workspace's manifest.
pub const PROFILE: &str = "el2";
/// Stands among the features for the one that is left out: `trace`, the only one that is on by
/// itself.
pub const WITHOUT_TRACE: &str = "without-trace";
/// The board that a developer's own machine runs in QEMU.
pub const PACKAGE: &str = "oche-qemu-virt";
/// Names the way to build, against the choice made by looking: `rustup` or `debian`.
const CHOICE_VARIABLE: &str = "OCHE_EL2_TOOLCHAIN";
/// The file that remembers that `rustup target add` was refused, so that it is tried once only.
const REFUSAL_FILE: &str = "rustup-target-refused";
/// How long `rustup target add` may take before the other way is taken.
const RUSTUP_LIMIT: Duration = Duration::from_secs(60);
/// Debian's compiler, newer than the distribution's plain `rustc`.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A way to build for EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// rustup's toolchain has the target installed.
    Rustup,
    /// Debian's compiler builds the core library from its packaged source.
    Debian,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Rustup => "rustup's target",
            Self::Debian => "Debian's compiler with its library's source",
        })
    }
}

impl Toolchain {
    /// Takes rustup's target if it is installed or can be added, else Debian's compiler.
    ///
    /// # Errors
    ///
    /// `OCHE_EL2_TOOLCHAIN` names neither.
    pub fn choose(step: &Step) -> Result<Self> {
        match std::env::var(CHOICE_VARIABLE).as_deref() {
            Ok("rustup") => return Ok(Self::Rustup),
            Ok("debian") => return Ok(Self::Debian),
            Ok("") | Err(_) => {}
            Ok(other) => bail!("{CHOICE_VARIABLE}={other}: it may be `rustup` or `debian`"),
        }
        let Some(toolchain) = active_toolchain() else { return Ok(Self::Debian) };
        let has_target = || toolchain.join("lib/rustlib").join(TARGET).join("lib").is_dir();
        if has_target() {
            return Ok(Self::Rustup);
        }
        let refusal = workspace::cache().join(REFUSAL_FILE);
        if refusal.is_file() {
            return Ok(Self::Debian);
        }
        step.detail("asking rustup for the bare-metal target");
        if add_target(TARGET) && has_target() {
            return Ok(Self::Rustup);
        }
        step.detail("rustup has no bare-metal target to offer here; Debian's compiler will do");
        workspace::write_whole(&refusal, b"delete this file to ask rustup again\n")?;
        Ok(Self::Debian)
    }

    /// A cargo that builds for the target in a folder of its own, so that two compilers do not undo
    /// each other.
    #[must_use]
    pub fn cargo(self) -> Command {
        self.cargo_in(&workspace::root())
    }

    /// The same for the checkout at `root`.
    #[must_use]
    pub fn cargo_in(self, root: &Path) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(root);
        // What `cargo xtask` left there is meant for the host.
        for name in [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "CARGO_TARGET_DIR",
            "RUSTC_WRAPPER",
        ] {
            cargo.env_remove(name);
        }
        cargo.env("CARGO_TARGET_DIR", root.join("target").join(self.folder_name()));
        if self == Self::Debian {
            // Debian's compiler is a stable one; its library's source is the one it was made from.
            cargo.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", DEBIAN_RUSTC);
        }
        // Encoded, as paths may have spaces in them.
        cargo.env("CARGO_ENCODED_RUSTFLAGS", self.compiler_flags(root).join("\x1f"));
        cargo
    }

    /// Frame pointers, so that a panic can print the callers; the same bytes in every folder; and
    /// Debian's compiler does not know its linker.
    fn compiler_flags(self, root: &Path) -> Vec<String> {
        let rustc = match self {
            Self::Rustup => "rustc",
            Self::Debian => DEBIAN_RUSTC,
        };
        let mut flags = vec!["-Cforce-frame-pointers=yes".to_owned()];
        flags.extend((self == Self::Debian).then(|| "-Clinker=ld.lld".to_owned()));
        flags.extend(source_paths::flags(root, rustc));
        flags
    }

    /// The arguments that name the target.
    #[must_use]
    pub fn target_arguments(self) -> &'static [&'static str] {
        match self {
            Self::Rustup => &["--target", TARGET],
            Self::Debian => &[
                "-Zbuild-std=core,alloc,compiler_builtins",
                "-Zbuild-std-features=compiler-builtins-mem",
                "--target",
                TARGET,
            ],
        }
    }

    fn folder_name(self) -> &'static str {
        match self {
            Self::Rustup => "el2",
            Self::Debian => "el2-debian",
        }
    }
}

/// Builds Oche for QEMU's virt machine and gives the path of its ELF file.
///
/// With `features`, such as `break-placement`, the file has a name of its own and stands beside the
/// plain one.
///
/// # Errors
///
/// The compiler is missing, or Oche does not compile.
pub fn build(toolchain: Toolchain, features: &[&str], step: &Step) -> Result<PathBuf> {
    build_package(toolchain, PACKAGE, features, step)
}

/// Builds one of the workspace's packages for the target, such as a guest of the tests, and gives
/// the path of its ELF file.
///
/// # Errors
///
/// As [`build`].
pub fn build_package(
    toolchain: Toolchain,
    package: &str,
    features: &[&str],
    step: &Step,
) -> Result<PathBuf> {
    step.detail(&format!("compiling for {TARGET} with {toolchain}"));
    let mut cargo = toolchain.cargo();
    cargo
        .args(["build", "--package", package, "--profile", PROFILE])
        .args(toolchain.target_arguments());
    if features.contains(&WITHOUT_TRACE) {
        cargo.arg("--no-default-features");
    }
    let added: Vec<&str> =
        features.iter().copied().filter(|feature| *feature != WITHOUT_TRACE).collect();
    if !added.is_empty() {
        cargo.arg("--features").arg(added.join(","));
    }
    command::run_showing_errors(&mut cargo, &format!("building {package} for the target"), step)?;
    let built = workspace::target().join(toolchain.folder_name());
    let built = built.join(TARGET).join(PROFILE).join(package);
    let kept = workspace::target().join("images").join(file_name(package, features));
    let mut bytes =
        fs::read(&built).with_context(|| format!("cargo left no {}", built.display()))?;
    stamp::stamp(&mut bytes, &stamp::commit(&workspace::root()))
        .with_context(|| format!("cannot stamp {}", built.display()))?;
    workspace::write_whole(&kept, &bytes)?;
    Ok(kept)
}

/// The ELF file's name: the package's, and the features that make it another one.
fn file_name(package: &str, features: &[&str]) -> String {
    let mut name = package.to_owned();
    for feature in features {
        name.push('+');
        name.push_str(feature);
    }
    name.push_str(".elf");
    name
}

/// The folder of rustup's active toolchain, as its compiler prints it.
fn active_toolchain() -> Option<PathBuf> {
    let answer = Command::new("rustc")
        .args(["--print", "sysroot"])
        .current_dir(workspace::root())
        .output()
        .ok()?;
    let path = String::from_utf8(answer.stdout).ok()?;
    let path = Path::new(path.trim());
    (answer.status.success() && path.is_absolute()).then(|| path.to_owned())
}

/// Whether rustup's active toolchain has `target`, or has it now that rustup was asked to add it.
#[must_use]
pub fn has_rustup_target(target: &str) -> bool {
    let Some(toolchain) = active_toolchain() else { return false };
    let is_there = || toolchain.join("lib/rustlib").join(target).join("lib").is_dir();
    is_there() || (add_target(target) && is_there())
}

/// Asks rustup for the target; false if it has none, is not there, or takes too long.
fn add_target(target: &str) -> bool {
    let asked = Command::new("rustup")
        .args(["target", "add", target])
        .current_dir(workspace::root())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut rustup) = asked else { return false };
    let begun = Instant::now();
    while begun.elapsed() < RUSTUP_LIMIT {
        match rustup.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) => std::thread::sleep(Duration::from_millis(50)),
            Err(_) => break,
        }
    }
    let _ = rustup.kill();
    let _ = rustup.wait();
    false
}

#[cfg(test)]
mod tests {
    use super::{PACKAGE, file_name};

    #[test]
    fn a_build_with_features_does_not_replace_the_plain_one() {
        assert_eq!(file_name(PACKAGE, &[]), "oche-qemu-virt.elf");
        assert_eq!(file_name(PACKAGE, &["break-placement"]), "oche-qemu-virt+break-placement.elf");
    }
}
