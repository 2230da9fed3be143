//! Debian's kernels and U-Boot as the archive has them today.

use anyhow::{Context, Result};
use clap::ValueEnum;
use oche::progress::Step;

use super::workshop::{folder, own};
use crate::environment;
use crate::guest::kernel::{self, KernelChoice, KernelSeries};
use crate::m1;
use crate::test::m1 as board;

/// Boots a kernel on both boards, with the DART driver of its own source.
///
/// # Errors
///
/// Something cannot be had, or a run goes wrong.
pub(super) fn run(step: &Step, series: KernelSeries) -> Result<String> {
    let choice = KernelChoice::series(series);
    kernel::refresh(&choice, step)?;
    let name = series.to_possible_value().context("a kernel without a name")?;
    let name = name.get_name();
    let output = folder().join(format!("kernel-{name}"));
    let output = output.to_str().context("a path that is no text")?;
    let arguments = ["--kernel-series", name, "--without-native", "--output", output];
    own(step, &format!("kernel-{name}"), &[&["demo"], &arguments[..]].concat())?;
    board::run_stock_kernel(environment::prepare(step)?, &choice, step)
}

/// Boots U-Boot on the simulated M1, and from it the newest kernel.
///
/// # Errors
///
/// As [`run`].
pub(super) fn u_boot(step: &Step) -> Result<String> {
    let choice = KernelChoice::series(KernelSeries::Newest);
    m1::u_boot::refresh(step)?;
    board::u_boot::run(environment::prepare(step)?, &choice, step)
}
