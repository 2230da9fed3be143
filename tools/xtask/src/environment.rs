//! Finds and installs the packages that the machine needs to run and check Oche in QEMU.
//!
//! A fresh Debian with rustup's host toolchain is enough to begin with; everything else comes from
//! the distribution's own archive.

use std::process::Command;

use anyhow::Result;
use oche::el2::Toolchain;
use oche::environment::{self, Need, Sign, install, missing_of};
use oche::progress::Step;

/// Needed on every machine, sorted by what for: to run the guest, to build its module, to make its
/// files.
const NEEDS: [Need; 7] = [
    Need { sign: Sign::Program("qemu-system-aarch64"), package: "qemu-system-arm" },
    Need { sign: Sign::Program("aarch64-linux-gnu-gcc"), package: "gcc-aarch64-linux-gnu" },
    Need { sign: Sign::Program("make"), package: "make" },
    Need { sign: Sign::Program("dtc"), package: "device-tree-compiler" },
    Need { sign: Sign::Program("depmod"), package: "kmod" },
    Need { sign: Sign::Program("xz"), package: "xz-utils" },
    Need {
        sign: Sign::File("/usr/share/keyrings/debian-archive-keyring.gpg"),
        package: "debian-archive-keyring",
    },
];

/// Finds what is missing and installs it; gives the toolchain that builds for EL2.
///
/// # Errors
///
/// As [`environment::prepare`].
pub fn prepare(step: &Step) -> Result<Toolchain> {
    environment::prepare(&NEEDS, step)
}

/// The linter of Debian's package `rust-web-clippy`, which goes with its compiler.
pub(crate) const DEBIAN_LINTER: &str = "/usr/bin/clippy-driver";

/// The linter that goes with Debian's newer compiler.
const LINTER_NEEDS: [Need; 1] =
    [Need { sign: Sign::File(DEBIAN_LINTER), package: "rust-web-clippy" }];

/// Installs the linter that goes with `toolchain`, where rustup did not bring it.
///
/// # Errors
///
/// As [`environment::prepare`].
pub fn prepare_linter(toolchain: Toolchain, step: &Step) -> Result<()> {
    let missing =
        if toolchain == Toolchain::Debian { missing_of(&LINTER_NEEDS) } else { Vec::new() };
    if missing.is_empty() { Ok(()) } else { install(&missing, step) }
}

/// Needed to look at a trace's views as other programs see them.
const VIEW_NEEDS: [Need; 4] = [
    Need { sign: Sign::Program("tshark"), package: "tshark" },
    Need { sign: Sign::Program("chromium"), package: "chromium" },
    Need { sign: Sign::Program("python3"), package: "python3" },
    // Python's own check; python3 alone, as Debian splits it, has no pip to put into a virtual
    // environment.
    Need { sign: Sign::File("/usr/share/doc/python3-venv"), package: "python3-venv" },
];

/// Needed to read the codes on the probe's screen.
const CODE_NEEDS: [Need; 1] = [Need { sign: Sign::Program("zbarimg"), package: "zbar-tools" }];

/// Installs the program that reads codes.
///
/// # Errors
///
/// As [`environment::prepare`].
pub fn prepare_codes(step: &Step) -> Result<()> {
    let missing = missing_of(&CODE_NEEDS);
    if missing.is_empty() { Ok(()) } else { install(&missing, step) }
}

/// Installs the programs that traces are looked at with: Wireshark's, a browser, Python.
///
/// # Errors
///
/// As [`environment::prepare`].
pub fn prepare_views(step: &Step) -> Result<()> {
    let mut missing = missing_of(&VIEW_NEEDS);
    if has_ensurepip() {
        missing.retain(|package| *package != "python3-venv");
    }
    if missing.is_empty() { Ok(()) } else { install(&missing, step) }
}

/// Whether the Python in use can make virtual environments.
fn has_ensurepip() -> bool {
    Command::new("python3")
        .args(["-c", "import ensurepip, venv"])
        .output()
        .is_ok_and(|run| run.status.success())
}
