//! `cargo xtask pictures`: the documentation's picture of the report, made of a demo's trace in a
//! browser without a screen.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use oche::progress::Progress;
use oche::trace::TraceFile;
use oche::trace::filter::EventFilter;
use oche::trace::report::{ReportedFile, write_report};
use oche::trace::symbols::Symbols;
use oche::{command, workspace};

use crate::environment;

/// Pixels of the report's picture: as wide as the page gets, and down to the first address spaces.
const REPORT: (u32, u32) = (1240, 2400);

/// Options of `cargo xtask pictures`.
#[derive(Clone, Debug, clap::Args)]
pub struct PicturesOptions {
    /// The trace; by default that of the last `cargo xtask demo`.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// The folder to write report.png to.
    #[arg(long, value_name = "FOLDER", default_value = "docs")]
    pub folder: PathBuf,
}

/// Makes the picture of the report.
///
/// # Errors
///
/// There is no such trace, or no browser.
pub fn main(options: &PicturesOptions) -> Result<()> {
    let progress = Progress::new(1);
    let step = progress.step("Picture for the documentation");
    environment::prepare_views(&step)?;
    let path = options
        .trace
        .clone()
        .unwrap_or_else(|| workspace::target().join("demo").join("trace.oche"));
    let trace = TraceFile::open(&path)?;
    let scratch = workspace::target().join("pictures");
    workspace::create_folder(&scratch)?;
    let page = scratch.join("report.html");
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let session = trace.sessions.len().checked_sub(1).context("the trace is empty")?;
    write_report(
        &trace,
        session,
        &ReportedFile::new(&name, []),
        &EventFilter::default(),
        &Symbols::default(),
        &mut File::create(&page)?,
    )?;
    shoot(&page, REPORT, &options.folder.join("report.png"), &scratch)?;
    step.done(&options.folder.join("report.png").display().to_string());
    Ok(())
}

/// Has the browser make a picture of what is at `page`.
fn shoot(page: &Path, (width, height): (u32, u32), picture: &Path, scratch: &Path) -> Result<()> {
    let profile = scratch.join("chromium");
    let _ = fs::remove_dir_all(&profile);
    let mut chromium = browser(&profile);
    chromium.arg(format!("--window-size={width},{height}")).arg("--hide-scrollbars");
    chromium
        .arg(format!("--screenshot={}", picture.display()))
        .arg(format!("file://{}", page.display()));
    command::run(&mut chromium, "the browser")?;
    let _ = fs::remove_dir_all(&profile);
    if !picture.is_file() {
        bail!("the browser left no {}", picture.display());
    }
    Ok(())
}

/// A browser without a screen and without a network, with a profile of its own.
pub(crate) fn browser(profile: &Path) -> Command {
    let mut chromium = Command::new("chromium");
    chromium.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
    ]);
    chromium.args([
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]);
    // No proxy answers there: what would be loaded from anywhere fails, and is reported.
    chromium
        .arg("--proxy-server=127.0.0.1:9")
        .arg(format!("--user-data-dir={}", profile.display()));
    chromium
}
