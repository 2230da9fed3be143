//! `oche decode-panic`: its arguments and what it does.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use oche_types::identity::{self, BuildId};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use super::reading::{self, Address, PanicText};
use super::symbols::{Function, ImageSymbols};
use crate::image_source::OcheElf;
use crate::output::to_standard_output;
use crate::{embedded, workspace};

/// Bytes of an instruction: a return address less one lies in the call.
const INSTRUCTION_BYTES: u64 = 4;

/// Name the functions that a panic of Oche went through.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  oche decode-panic serial.log
  oche decode-panic                      reads what you type, up to Ctrl-D
  oche decode-panic serial.log --oche oche-m1.elf

Type at least the line with `build` and those with `image+`. Case, spaces, wrapped lines, a missing 0x, and
O for 0 or l for 1 do no harm. The `oche` of the release that panicked knows its functions; of another
release, name the ELF file, which the archive oche-VERSION-symbols.tar.gz has.

Exit codes: 0, the addresses are named; 2, there is no panic, or it is of another Oche.")]
pub struct DecodePanicArguments {
    /// Read this file; `-`, or none, reads standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// Take the functions from this ELF file of the Oche that panicked
    #[arg(long, value_name = "ELF")]
    oche: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl DecodePanicArguments {
    /// Prints the functions.
    ///
    /// # Errors
    ///
    /// The text cannot be read or has no panic, or the image that panicked is not at hand.
    pub fn run(&self) -> Result<()> {
        let mut text = Vec::new();
        let name = if self.file == Path::new("-") {
            io::stdin().read_to_end(&mut text).context("cannot read standard input")?;
            "standard input".to_owned()
        } else {
            text = fs::read(&self.file)
                .with_context(|| format!("cannot read {}", self.file.display()))?;
            self.file.display().to_string()
        };
        let Some(panic) = reading::read(&String::from_utf8_lossy(&text)) else {
            bail!("{name} has no panic of Oche: its lines begin with `oche: panic:`");
        };
        if panic.addresses.is_empty() {
            bail!("{name} has a panic, but no address such as `image+0x1234` to look up");
        }
        let elf = self.elf(&panic)?;
        let symbols =
            ImageSymbols::read(&elf.bytes).with_context(|| format!("cannot use {}", elf.origin))?;
        let frames: Vec<_> =
            panic.addresses.iter().map(|one| (one, symbols.at(place(one)))).collect();
        to_standard_output(|out| match self.json {
            true => write_json(&panic, &frames, out),
            false => write_text(&panic, &frames, out),
        })
    }

    /// The ELF file of the image that panicked.
    fn elf(&self, panic: &PanicText) -> Result<OcheElf> {
        if let Some(path) = &self.oche {
            let elf = OcheElf::read(path)?;
            let own = identity::find(&elf.bytes);
            return match (panic.build, own.and_then(|own| own.build)) {
                (Some(wanted), Some(build)) if wanted != build => {
                    bail!("{} is build {build}, and the panic is of build {wanted}", elf.origin)
                }
                _ => Ok(elf),
            };
        }
        let Some(build) = panic.build else {
            bail!(
                "the text does not say which Oche panicked: add the line with `build` and its {} \
                 digits, or name the ELF file with --oche",
                BuildId::DIGITS
            );
        };
        if let Some(elf) = at_hand(build)? {
            return Ok(elf);
        }
        let release = panic.release.as_deref().unwrap_or_default();
        bail!(
            "the panic is of another Oche than this program has: {release}: use the `oche` of that \
             release, or name its ELF file with --oche (oche-VERSION-symbols.tar.gz has it)"
        )
    }
}

/// The names of the functions that the panic in `text` went through, innermost first, by the ELF
/// file of the Oche that panicked.
///
/// # Errors
///
/// There is no panic, it is of another build, or the file has no symbols.
pub fn functions(text: &str, elf: &Path) -> Result<Vec<String>> {
    let panic = reading::read(text).context("no panic of Oche")?;
    let arguments =
        DecodePanicArguments { file: PathBuf::new(), oche: Some(elf.to_owned()), json: false };
    let elf = arguments.elf(&panic)?;
    if panic.build.is_none() {
        bail!("the panic does not say its build");
    }
    let symbols = ImageSymbols::read(&elf.bytes)?;
    let all = panic.addresses.iter().flat_map(|one| symbols.at(place(one)));
    Ok(all.map(|function| function.name).collect())
}

/// The ELF file of `build`: one that this program carries, or one that the checkout built last.
fn at_hand(build: BuildId) -> Result<Option<OcheElf>> {
    let is_it = |bytes: &[u8]| identity::find(bytes).and_then(|own| own.build) == Some(build);
    for (package, bytes) in embedded::all()? {
        if is_it(&bytes) {
            let origin = format!("the image {package} in this program");
            return Ok(Some(OcheElf { bytes, origin }));
        }
    }
    let built = workspace::checkout().map(|root| root.join("target").join("images"));
    let files = built.and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten();
    for path in files.flatten().map(|entry| entry.path()) {
        if let Some(elf) = OcheElf::read(&path).ok().filter(|elf| is_it(&elf.bytes)) {
            return Ok(Some(elf));
        }
    }
    Ok(None)
}

/// Where to look: a return address is behind the call.
fn place(address: &Address) -> u64 {
    match address.is_instruction {
        true => address.offset,
        false => address.offset.saturating_sub(INSTRUCTION_BYTES),
    }
}

fn write_text(
    panic: &PanicText,
    frames: &[(&Address, Vec<Function>)],
    out: &mut impl Write,
) -> io::Result<()> {
    if panic.earlier > 0 {
        writeln!(out, "the last of {} panics in the text", panic.earlier + 1)?;
    }
    for line in panic.release.iter().chain([&panic.message]).filter(|line| !line.is_empty()) {
        writeln!(out, "{line}")?;
    }
    for (number, (address, functions)) in frames.iter().enumerate() {
        let how = if address.is_instruction { "at" } else { "called from" };
        writeln!(out, "{number:>3} image+{:#x}, {how}", address.offset)?;
        for function in functions {
            let inlined = if function.is_inlined { ", inlined into" } else { "" };
            write!(out, "      {}", function.name)?;
            if let (Some(file), Some(line)) = (&function.file, function.line) {
                write!(out, " ({file}:{line})")?;
            }
            writeln!(out, "{inlined}")?;
        }
        if functions.is_empty() {
            writeln!(out, "      no function of this image: was the address read right?")?;
        }
    }
    Ok(())
}

/// What `oche decode-panic --json` prints.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PanicAnswer<'a> {
    message: &'a str,
    release: Option<&'a str>,
    /// The image's build id.
    build: Option<String>,
    /// Innermost first.
    frames: Vec<Frame<'a>>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Frame<'a> {
    /// The offset in the image, in hexadecimal.
    address: String,
    /// Whether it is the instruction itself, and not where a call returns to.
    is_instruction: bool,
    functions: &'a [Function],
}

fn write_json(
    panic: &PanicText,
    frames: &[(&Address, Vec<Function>)],
    out: &mut impl Write,
) -> io::Result<()> {
    let frames = frames.iter().map(|(address, functions)| Frame {
        address: format!("{:#x}", address.offset),
        is_instruction: address.is_instruction,
        functions,
    });
    let value = json!(PanicAnswer {
        message: &panic.message,
        release: panic.release.as_deref(),
        build: panic.build.map(|id| id.to_string()),
        frames: frames.collect(),
    });
    writeln!(out, "{value:#}")
}
