//! Installs the packages that the machine needs to run and check Oche in QEMU.
//!
//! A fresh Debian with rustup's host toolchain is enough to begin with; everything else comes from
//! the distribution's own archive.

use anyhow::Result;
use oche::el2::Toolchain;
use oche::environment::{self, install_missing};
use oche::needs::Purpose;
use oche::progress::Step;

mod qemu;

/// Finds what a guest's boot lacks and installs it; gives the toolchain that builds for EL2.
///
/// # Errors
///
/// As [`environment::prepare`].
pub fn prepare(step: &Step) -> Result<Toolchain> {
    qemu::prepare(step)?;
    environment::prepare(&[Purpose::Guest], step)
}

/// Installs what any command needs; gives the toolchain that builds for EL2.
///
/// # Errors
///
/// As [`environment::prepare`].
pub fn prepare_all(step: &Step) -> Result<Toolchain> {
    qemu::prepare(step)?;
    let toolchain = environment::prepare(
        &[Purpose::Guest, Purpose::Views, Purpose::Codes, Purpose::Fresh],
        step,
    )?;
    prepare_linter(toolchain, step)?;
    Ok(toolchain)
}

/// Installs the linter that goes with `toolchain`, where rustup did not bring it.
///
/// # Errors
///
/// As [`environment::prepare`].
pub fn prepare_linter(toolchain: Toolchain, step: &Step) -> Result<()> {
    if toolchain == Toolchain::Debian { install_missing(&[Purpose::Linter], step) } else { Ok(()) }
}

/// Installs the programs that traces are looked at with: Wireshark's, a browser,
/// Python.
///
/// # Errors
///
/// As [`environment::prepare`].
pub fn prepare_views(step: &Step) -> Result<()> {
    install_missing(&[Purpose::Views], step)
}

/// Installs the program that reads codes in pictures.
///
/// # Errors
///
/// As [`environment::prepare`].
pub fn prepare_codes(step: &Step) -> Result<()> {
    install_missing(&[Purpose::Codes], step)
}
