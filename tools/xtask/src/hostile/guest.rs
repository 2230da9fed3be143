//! The guest: built, packed behind Oche, and run in QEMU.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use oche::el2::{self, Toolchain};
use oche::pack::{self, GuestFiles};
use oche::progress::Step;
use oche::trace::FileRecorder;
use oche::workspace;

use crate::qemu::{QemuMachine, RunEnding, Running, Serial, Wish};

/// The guest's package.
const PACKAGE: &str = "oche-guest-hostile";
/// How long one run may take: some forty seconds on two CPUs, and more under a checker.
pub(super) const LIMIT: Duration = Duration::from_secs(600);

/// Builds the guest and gives the path of its flat image.
pub(crate) fn flat_guest(toolchain: Toolchain, step: &Step) -> Result<std::path::PathBuf> {
    let elf = el2::build_package(toolchain, PACKAGE, &[], step)?;
    let flat = elf.with_extension("img");
    workspace::write_whole(&flat, &pack::flatten(&std::fs::read(elf)?)?)?;
    Ok(flat)
}

/// The configuration of a run of the guest.
#[derive(Debug, Default)]
pub(super) struct Way<'a> {
    pub(super) name: &'a str,
    pub(super) trace: Option<&'a Path>,
    pub(super) options: &'a [(&'a str, &'a str)],
    /// More arguments for QEMU.
    pub(super) arguments: &'a [OsString],
    /// The run ends at a line that begins so.
    pub(super) until: Option<&'a str>,
}

/// Runs the guest to its end, or as `way` has it; passes every line to `take`.
pub(super) fn run(
    oche: &Path,
    guest: &Path,
    way: &Way<'_>,
    step: &Step,
    mut take: impl FnMut(&str),
) -> Result<RunEnding> {
    let mut running = start(oche, guest, way, step)?;
    let recorder = way
        .trace
        .map(|trace| FileRecorder::start(&running.memory().open_path(), trace))
        .transpose()?;
    let ending = running.watch(LIMIT, |_, line| {
        take(&line.text);
        let is_over = line.text == "oche: panic: stopped"
            || way.until.is_some_and(|until| line.text.starts_with(until));
        Ok(if is_over { Wish::End } else { Wish::GoOn })
    })?;
    if let Some(recorder) = recorder {
        recorder.finish()?;
    }
    Ok(ending)
}

/// Starts QEMU with Oche and the guest.
pub(super) fn start(oche: &Path, guest: &Path, way: &Way<'_>, step: &Step) -> Result<Running> {
    let name = way.name.replace('=', "-");
    let folder = workspace::target().join("hostile");
    workspace::create_folder(&folder)?;
    let packed = folder.join(format!("{name}.img"));
    let options = way.options.iter();
    let options = options.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut arguments: Vec<OsString> = vec!["-device".into(), "edu,addr=5".into()];
    arguments.extend(way.arguments.iter().cloned());
    pack::pack(oche, &GuestFiles { kernel: guest.to_owned(), initrd: None, options }, &packed)?;
    step.detail(&format!("running QEMU: {name}"));
    let machine = QemuMachine {
        cpu: "cortex-a76".into(),
        cpus: 4,
        memory_mib: 1024,
        kernel: packed,
        initrd: None,
        append: String::new(),
        serial: Serial::Watched,
        // The guest finds it there.
        arguments,
    };
    Running::start(&machine, &folder.join(format!("{name}.log")))
}
