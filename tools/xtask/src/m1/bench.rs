//! The parts of runs on the simulated board: the image that `oche pack` writes for a Mac, and the
//! board's parts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use oche::command;
use oche::el2::{self, Toolchain};
use oche::pack::{self, GuestFiles};
use oche::progress::Step;
use oche::workspace;
use oche_m1_sim::{BoardOutcome, BoardParts, Mac, SimulatedBoard, screen};
use oche_types::range::PhysRange;
use sha2::{Digest, Sha256};

use super::device_tree;
use crate::qemu;

/// How long one run may take: a few seconds with one CPU, some forty with eight on two that have
/// nothing else to do. A board that hangs is found by its silence long before.
pub const LIMIT: Duration = Duration::from_secs(600);

/// An image and the board that it runs on.
#[derive(Debug)]
pub struct Bench {
    /// The packed file's bytes.
    pub image: Vec<u8>,
    /// The packed file.
    pub path: PathBuf,
    /// Oche's ELF file.
    pub oche: PathBuf,
    parts: BoardParts,
    folder: PathBuf,
}

impl Bench {
    /// Builds Oche, with `features` of the board's crate, and the tests' guest; packs them into
    /// `folder`, where the logs of all runs go too.
    ///
    /// # Errors
    ///
    /// Something does not compile, or the device tree cannot be had.
    pub fn make(
        toolchain: Toolchain,
        features: &[&str],
        folder: &Path,
        step: &Step,
    ) -> Result<Self> {
        Self::with_guest(toolchain, features, &own_guest(toolchain, step)?, folder, step)
    }

    /// As [`Bench::make`], without the detour by the command `oche pack`.
    ///
    /// # Errors
    ///
    /// As [`Bench::make`].
    pub fn make_quickly(toolchain: Toolchain, folder: &Path, step: &Step) -> Result<Self> {
        let mut guest = own_guest(toolchain, step)?;
        // Oche does not read it, but the guest may: it is handed over as the kernel is.
        let initrd = folder.join("initrd");
        workspace::write_whole(&initrd, &[0; 3 << 14])?;
        guest.initrd = Some(initrd);
        Self::packed(toolchain, &[], &guest, folder, step, false)
    }

    /// The same with another guest.
    ///
    /// # Errors
    ///
    /// As [`Bench::make`]; and the guest cannot be packed.
    pub fn with_guest(
        toolchain: Toolchain,
        features: &[&str],
        guest: &GuestFiles,
        folder: &Path,
        step: &Step,
    ) -> Result<Self> {
        Self::packed(toolchain, features, guest, folder, step, features.is_empty())
    }

    fn packed(
        toolchain: Toolchain,
        features: &[&str],
        guest: &GuestFiles,
        folder: &Path,
        step: &Step,
        as_a_person: bool,
    ) -> Result<Self> {
        let oche = el2::build_package(toolchain, "oche-m1", features, step)?;
        workspace::create_folder(folder)?;
        let path = folder.join("oche-m1.img");
        if as_a_person {
            pack_as_a_person(guest, &path, step)?;
        } else {
            pack::pack(&oche, guest, &path)?;
        }
        let image = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let parts = make_parts(toolchain, &oche, step)?;
        Ok(Self { image, path, oche, parts, folder: folder.to_owned() })
    }

    /// The bench of the image at `path`, which was packed from the ELF file `elf`.
    ///
    /// # Errors
    ///
    /// As [`Bench::make`].
    pub fn of_image(
        toolchain: Toolchain,
        elf: PathBuf,
        path: PathBuf,
        folder: &Path,
        step: &Step,
    ) -> Result<Self> {
        let image = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let parts = make_parts(toolchain, &elf, step)?;
        Ok(Self { image, path, oche: elf, parts, folder: folder.to_owned() })
    }

    /// Puts the image into a Mac's memory; it has not run yet.
    ///
    /// # Errors
    ///
    /// As [`SimulatedBoard::start`].
    pub fn board(&self, mac: &Mac) -> Result<SimulatedBoard> {
        SimulatedBoard::start(&self.image, mac, &self.parts)
    }

    /// Puts the kernel of `guest` into a Mac's memory in place of the image, as m1n1 would without
    /// Oche; it has not run yet.
    ///
    /// # Errors
    ///
    /// As [`SimulatedBoard::start`]; and the kernel cannot be read.
    pub fn native_board(&self, guest: &GuestFiles, mac: &Mac) -> Result<SimulatedBoard> {
        let kernel = fs::read(&guest.kernel)
            .with_context(|| format!("cannot read {}", guest.kernel.display()))?;
        let parts = BoardParts { dirty: PhysRange::default(), ..self.parts.clone() };
        SimulatedBoard::start(&kernel, mac, &parts)
    }

    /// Runs the guest to its last line; every case must have passed.
    ///
    /// # Errors
    ///
    /// The board does not run, or the run was not good.
    pub fn passes(&self, name: &str, mac: &Mac, step: &Step) -> Result<BoardOutcome> {
        let outcome =
            self.run_until(name, mac, step, |line| is_last(line) || line.contains("FAILED"))?;
        if let Err(error) = judge(&outcome) {
            step.line(&format!("the whole log: {}", self.log(name).display()));
            return Err(error.context(name.to_owned()));
        }
        Ok(outcome)
    }

    /// Runs the guest to its last line.
    ///
    /// # Errors
    ///
    /// The board does not run.
    pub fn run(&self, name: &str, mac: &Mac, step: &Step) -> Result<BoardOutcome> {
        self.run_until(name, mac, step, is_last)
    }

    fn run_until(
        &self,
        name: &str,
        mac: &Mac,
        step: &Step,
        is_enough: impl FnMut(&str) -> bool,
    ) -> Result<BoardOutcome> {
        step.detail(name);
        let outcome = self.board(mac)?.run(LIMIT, is_enough).with_context(|| name.to_owned())?;
        self.keep(name, &outcome)?;
        Ok(outcome)
    }

    /// Writes the console's lines into the log of the run `name`.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn keep(&self, name: &str, outcome: &BoardOutcome) -> Result<()> {
        workspace::write_whole(&self.log(name), outcome.lines.join("\n").as_bytes())
    }

    /// Oche's image in memory, BSS and stacks included, where it is loaded at `load`.
    #[must_use]
    pub fn image_at(&self, load: u64) -> PhysRange {
        PhysRange { start: load, end: load + self.parts.dirty.end }
    }

    /// The path of the log of the run `name`.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{}.log", name.replace(' ', "-")))
    }
}

/// Builds and fetches what the board needs for `oche`, Oche's ELF file.
fn make_parts(toolchain: Toolchain, oche: &Path, step: &Step) -> Result<BoardParts> {
    let stub = el2::build_package(toolchain, "oche-guest-m1n1-stub", &[], step)?;
    let stub = pack::flatten(&fs::read(stub).context("the stub")?)?;
    let elf = fs::read(oche).with_context(|| format!("cannot read {}", oche.display()))?;
    let symbol =
        |name| pack::symbol(&elf, name).with_context(|| format!("Oche's file has no {name}"));
    let dirty = PhysRange { start: symbol("__bss_start")?, end: symbol("__image_end")? };
    Ok(BoardParts { stub, tree: device_tree::of_the_board(step)?, dirty, qemu: qemu::launcher()? })
}

/// Builds the tests' guest.
fn own_guest(toolchain: Toolchain, step: &Step) -> Result<GuestFiles> {
    let guest = el2::build_package(toolchain, "oche-guest-dart-driver", &[], step)?;
    let kernel = guest.with_extension("img");
    workspace::write_whole(&kernel, &pack::flatten(&fs::read(guest)?)?)?;
    let options = vec![("oche.pool".to_owned(), "64M".to_owned())];
    Ok(GuestFiles { kernel, initrd: None, options })
}

/// Builds the tests' kernel that stands for U-Boot, to be packed with `options`.
///
/// # Errors
///
/// It does not compile.
pub fn native_guest(
    toolchain: Toolchain,
    options: &[(&str, &str)],
    step: &Step,
) -> Result<GuestFiles> {
    let guest = el2::build_package(toolchain, "oche-guest-native", &[], step)?;
    let kernel = guest.with_extension("img");
    workspace::write_whole(&kernel, &pack::flatten(&fs::read(guest)?)?)?;
    let options = options.iter().map(|(name, value)| (String::from(*name), String::from(*value)));
    Ok(GuestFiles { kernel, initrd: None, options: options.collect() })
}

/// Packs with the very command of the manual, `oche pack`, so that what boots here is the file that
/// a Mac would get, bit for bit; and prints its SHA-256.
fn pack_as_a_person(guest: &GuestFiles, path: &Path, step: &Step) -> Result<()> {
    let mut line = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    line.current_dir(workspace::root()).args(["run", "--quiet", "--package", "oche", "--", "pack"]);
    line.arg("--kernel").arg(&guest.kernel).arg("--output").arg(path);
    if let Some(initrd) = &guest.initrd {
        line.arg("--initrd").arg(initrd);
    }
    for (name, value) in &guest.options {
        line.args(["--option", &format!("{name}={value}")]);
    }
    command::run(&mut line, "oche pack")?;
    let image = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let sum = Sha256::digest(&image).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    step.detail(&format!("{}: {} bytes, sha256 {sum}", path.display(), image.len()));
    Ok(())
}

/// The tests' guest has printed its last line, or Oche has.
#[must_use]
pub fn is_last(line: &str) -> bool {
    (line.starts_with("guest: ") && line.contains(" cases, "))
        || line.starts_with("oche: panic: stopped")
        // The last line behind `oche: fatal:`.
        || line.starts_with("oche: hold the power button")
        || line.contains("itself FAILED")
}

/// Whether a run of the tests' guest was good.
///
/// # Errors
///
/// It was not; the error is the first that was found.
pub fn judge(outcome: &BoardOutcome) -> Result<()> {
    let bad = outcome.lines.iter().find(|line| {
        line.contains("FAILED") || line.contains("oche: panic") || line.contains("oche: fatal")
    });
    if let Some(line) = bad {
        bail!("{line}");
    }
    if !outcome.lines.iter().any(|line| is_last(line)) {
        let last = outcome.lines.last().map_or("nothing at all", String::as_str);
        bail!("time was up at PC {:#x}; the last line was: {last}", outcome.stands_at.unwrap_or(0));
    }
    if let Some(violation) = outcome.violations.first() {
        bail!("an M1 would not have forgiven this: {violation}");
    }
    if !outcome.has_line("oche: Oche ") {
        bail!("there was no banner");
    }
    // The banner at least is on the screen as well: some twenty characters.
    if screen::lit_pixels(&outcome.screen) < 500 {
        bail!("nothing is on the screen");
    }
    Ok(())
}
