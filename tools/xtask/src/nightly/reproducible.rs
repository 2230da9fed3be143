//! The images for EL2, built in two folders, are equal bit for bit.
//!
//! Compared is what a machine loads. The ELF files differ in their line tables, which name the
//! folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use oche::el2::{self, Toolchain};
use oche::progress::Step;
use oche::{command, pack, workspace};

use super::workshop::{clone, folder};

/// The packages whose images ship.
const PACKAGES: [&str; 3] = [el2::PACKAGE, "oche-m1", "oche-m1-probe"];

/// Builds each image in two clones of the tree, and compares the two.
pub(super) fn run(step: &Step) -> Result<String> {
    let toolchain = Toolchain::choose(step)?;
    let clones = [clone(step, "one")?, clone(step, "another-folder")?];
    let mut sizes = Vec::new();
    for package in PACKAGES {
        let [one, other] =
            [build(&clones[0], package, toolchain)?, build(&clones[1], package, toolchain)?];
        let [one, other] = [read(&one)?, read(&other)?];
        if let Some(at) = first_difference(&one, &other) {
            bail!(
                "{package}: {} and {} bytes, different from byte {at:#x} on; see {}",
                one.len(),
                other.len(),
                folder().display()
            );
        }
        sizes.push(format!("{package} {} bytes", one.len()));
    }
    for clone in clones {
        workspace::remove_folder(&clone)?;
    }
    Ok(format!("equal: {}", sizes.join(", ")))
}

/// Builds a package in `clone` and gives the path of its ELF file.
fn build(clone: &Path, package: &str, toolchain: Toolchain) -> Result<PathBuf> {
    let target = clone.join("target");
    let mut cargo = toolchain.cargo();
    cargo.current_dir(clone).env("CARGO_TARGET_DIR", &target).env_remove("CARGO_MANIFEST_DIR");
    cargo.args(["build", "--quiet", "--package", package, "--profile", el2::PROFILE]);
    cargo.args(toolchain.target_arguments());
    command::run(&mut cargo, &format!("building {package} in {}", clone.display()))?;
    Ok(target.join(el2::TARGET).join(el2::PROFILE).join(package))
}

/// The loaded image of an ELF file.
fn read(path: &Path) -> Result<Vec<u8>> {
    let elf = fs::read(path).with_context(|| format!("cargo left no {}", path.display()))?;
    pack::flatten(&elf)
}

/// The first offset at which two files differ.
fn first_difference(one: &[u8], other: &[u8]) -> Option<usize> {
    let at = one.iter().zip(other).position(|(one, other)| one != other);
    at.or((one.len() != other.len()).then_some(one.len().min(other.len())))
}

#[cfg(test)]
mod tests {
    use super::first_difference;

    #[test]
    fn the_first_difference_is_found_even_at_the_end() {
        assert_eq!(first_difference(b"abc", b"abc"), None);
        assert_eq!(first_difference(b"abc", b"axc"), Some(1));
        assert_eq!(first_difference(b"abc", b"ab"), Some(2));
    }
}
