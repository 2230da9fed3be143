//! The build script: the images for EL2 that `oche` carries, and the commit that it shows.
//!
//! `OCHE_EMBED=FOLDER` names the folder of the images, `NAME.elf.xz` each, as `cargo xtask dist`
//! makes them. Without it `oche` carries none and builds them in its checkout, whose place it then
//! remembers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The images, by the package that each is built from. `src/embedded.rs` reads them.
const IMAGES: [&str; 3] = ["oche-m1", "oche-m1-probe", "oche-qemu-virt"];
/// The parts of the checkout whose changes may change `oche`, from the package's folder.
const SOURCES: [&str; 6] =
    ["src", "../../Cargo.lock", "../../hyp", "../../boot", "../../platform", "../../.git/index"];

fn main() {
    println!("cargo::rerun-if-env-changed=OCHE_EMBED");
    println!("cargo::rerun-if-env-changed=OCHE_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    let folder = env::var_os("OCHE_EMBED").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    embed(folder.as_deref());
    // An `oche` with images is used without its checkout, and is the same wherever it was built.
    let checkout = match folder {
        Some(_) => String::new(),
        None => format!("{}/../..", variable("CARGO_MANIFEST_DIR")),
    };
    println!("cargo::rustc-env=OCHE_CHECKOUT={checkout}");
    println!("cargo::rustc-env=OCHE_BUILT_FROM={}", commit());
}

/// Writes `embedded.rs`, which has the images in `folder` as constants.
fn embed(folder: Option<&Path>) {
    let out = PathBuf::from(variable("OUT_DIR"));
    let mut list = String::new();
    for name in folder.iter().flat_map(|_| IMAGES) {
        let file = format!("{name}.elf.xz");
        let from = folder.unwrap_or(Path::new("")).join(&file);
        println!("cargo::rerun-if-changed={}", from.display());
        if let Err(error) = fs::copy(&from, out.join(&file)) {
            println!("cargo::error=OCHE_EMBED: cannot read {}: {error}", from.display());
        }
        list += &format!("(\"{name}\", include_bytes!(\"{file}\").as_slice()),");
    }
    let text = format!("const IMAGES: &[(&str, &[u8])] = &[{list}];\n");
    fs::write(out.join("embedded.rs"), text).expect("OUT_DIR can be written");
}

/// The commit that is built, if this is a build that somebody else may get: one for development
/// would be compiled anew at each commit, and its checkout is at hand.
fn commit() -> String {
    if let Some(commit) = env::var("OCHE_COMMIT").ok().filter(|commit| !commit.is_empty()) {
        return commit;
    }
    if variable("PROFILE") != "release" {
        return "a development build".to_owned();
    }
    for path in SOURCES.iter().filter(|path| Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
    // The same as `stamp::commit`.
    let git = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
        .output();
    match git {
        Ok(git) if git.status.success() => String::from_utf8_lossy(&git.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}
