//! The program `oche` of a release: static, so that it needs nothing of the machine that runs it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use oche::progress::Step;
use oche::{command, el2, source_paths, workspace};

/// The cargo profile, from the workspace's manifest.
const PROFILE: &str = "dist";

/// The CPU of the computer that `oche` is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Architecture {
    /// 64-bit x86
    #[value(name = "x86_64")]
    X86,
    /// 64-bit Arm, as a Mac has it
    #[value(name = "aarch64")]
    Arm,
}

impl Architecture {
    /// Its name in targets and in names of archives.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::X86 => "x86_64",
            Self::Arm => "aarch64",
        }
    }

    /// The target of rustup with which its `oche` is built, and what it is linked with: musl; or
    /// glibc, where rustup has no musl for it and the machine's own compiler can link it.
    ///
    /// # Errors
    ///
    /// There is neither.
    pub(super) fn target(self, step: &Step) -> Result<Target> {
        let musl = format!("{}-unknown-linux-musl", self.name());
        step.detail(&format!("looking for rustup's target {musl}"));
        if el2::has_rustup_target(&musl) {
            // The linker of the toolchain, so that no cross-compiler is needed.
            let flags =
                ["-Clinker=rust-lld", "-Clinker-flavor=ld.lld", "-Clink-self-contained=yes"];
            return Ok(Target { name: musl, library: "musl", flags: flags.to_vec() });
        }
        let glibc = format!("{}-unknown-linux-gnu", self.name());
        if self.name() == std::env::consts::ARCH && el2::has_rustup_target(&glibc) {
            return Ok(Target { name: glibc, library: "glibc", flags: Vec::new() });
        }
        bail!(
            "rustup has no target {musl} here: run `rustup target add {musl}`, or leave it out with --only"
        )
    }
}

/// A way to link a static program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// rustup's name.
    pub(super) name: String,
    /// The C library.
    pub(super) library: &'static str,
    flags: Vec<&'static str>,
}

/// Builds `oche` with the images in `embedded`, and gives its path. Equal sources give equal bytes,
/// wherever they are.
///
/// # Errors
///
/// It does not compile.
pub(super) fn build(
    target: &Target,
    embedded: &Path,
    commit: &str,
    step: &Step,
) -> Result<PathBuf> {
    step.detail(&format!("compiling for {}", target.name));
    let folder = embedded.parent().context("a folder of results")?;
    let mut flags: Vec<String> = target.flags.iter().map(|flag| (*flag).to_owned()).collect();
    flags.push("-Ctarget-feature=+crt-static".to_owned());
    flags.extend(source_paths::flags(&workspace::root(), "rustc"));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace::root()).env("CARGO_TARGET_DIR", folder);
    // What `cargo xtask` left there is meant for another build.
    for name in ["RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_MANIFEST_DIR", "RUSTC_WRAPPER"] {
        cargo.env_remove(name);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    cargo.env("OCHE_EMBED", embedded).env("OCHE_COMMIT", commit);
    cargo.args(["build", "--locked", "--package", "oche", "--bin", "oche"]);
    cargo.args(["--profile", PROFILE, "--target", &target.name]);
    command::run_showing_errors(&mut cargo, &format!("building oche for {}", target.name), step)?;
    Ok(folder.join(&target.name).join(PROFILE).join("oche"))
}
