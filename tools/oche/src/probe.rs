//! `oche probe`: writes the image that only measures an M1, and reads its report back.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use oche_boot::header;
use oche_boot::payload::ItemKind;
use oche_m1_probe::reading;
use oche_m1_probe::settings::Settings;

use crate::destination::refuse_input;
use crate::image_source::{OcheElf, oche_elf};
use crate::inspect::image::{self, Contents};
use crate::output::to_standard_output;
use crate::pack::command::{Outputs, compress, outputs};
use crate::pack::kernel_image::KernelImage;
use crate::pack::{append, flatten};
use crate::workspace;

pub(crate) mod answers;

/// How long the report is shown before U-Boot starts, in seconds.
const SECONDS: u32 = 90;
/// The work of building it.
const BUILDING: &str = "The probe for EL2";
/// Bytes of memory that the probe needs for itself where no U-Boot is.
const SCRATCH_BYTES: u64 = 64 << 10;
/// `WFI`, and a branch to the instruction before: what stands for a U-Boot where there is none.
const WAIT: [u32; 2] = [0xd503_207f, 0x17ff_ffff];

/// Write an image that only measures an M1, or read its report back.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  oche probe --output probe.img
  oche probe --then u-boot-nodtb.bin --output probe.img     boots the Mac's own Linux afterwards
  oche probe --decode serial.log
  zbarimg --raw -q photo1.jpg photo2.jpg | oche probe --decode -

Two files come out: the image, and the same compressed with gzip beside it (.gz), as of `oche pack`.

Exit code of --decode: 0 if the report is whole and no assumption fails, 1 if one fails, 2 if nothing could
be read, 3 if none of what could be read fails, but a part of the report is missing or damaged.")]
pub struct ProbeArguments {
    /// Write the image to this file
    #[arg(long, required_unless_present = "decode")]
    output: Option<PathBuf>,
    /// Start this U-Boot (u-boot-nodtb.bin) natively when the report has been shown
    #[arg(long, conflicts_with = "decode")]
    then: Option<PathBuf>,
    /// Show the report for so many seconds before that
    #[arg(long, default_value_t = SECONDS, conflicts_with = "decode")]
    seconds: u32,
    /// Probe this board
    #[arg(long, value_enum, default_value_t = ProbeBoard::M1)]
    board: ProbeBoard,
    /// Write this ELF file of the probe instead of the one in this program, or the one that its
    /// checkout builds
    #[arg(long, value_name = "ELF", conflicts_with = "decode")]
    oche: Option<PathBuf>,
    /// Read a report back from this file, `-` for standard input: a log of the serial port, or the
    /// contents of the codes in any order
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    decode: Option<PathBuf>,
    /// Print what the report says as JSON
    #[arg(long, requires = "decode")]
    json: bool,
}

/// A machine that can be probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProbeBoard {
    /// An Apple M1 Mac, through m1n1
    M1,
}

impl ProbeBoard {
    /// The crate of the board's probe.
    #[must_use]
    pub fn package(self) -> &'static str {
        match self {
            Self::M1 => "oche-m1-probe",
        }
    }
}

impl ProbeArguments {
    /// Does what the arguments ask for.
    ///
    /// # Errors
    ///
    /// A file cannot be read or written, the probe cannot be built, or there is no report to read.
    pub fn run(&self) -> Result<ExitCode> {
        match (&self.decode, &self.output) {
            (Some(file), _) => self.decode(file),
            (None, Some(output)) => self.write(output).map(|()| ExitCode::SUCCESS),
            (None, None) => bail!("name a file with --output, or a report with --decode"),
        }
    }

    fn write(&self, output: &Path) -> Result<()> {
        let Outputs { plain, compressed } = outputs(output);
        for output in plain.iter().chain([&compressed]) {
            refuse_input(output, self.then.as_deref().into_iter().chain(self.oche.as_deref()))?;
        }
        // Wrong input is reported before anything is built.
        let next = self.then.as_deref().map(KernelImage::read_u_boot).transpose()?;
        let elf = oche_elf(self.board.package(), self.oche.as_deref(), BUILDING)?;
        let settings = Settings { seconds: self.seconds, has_next: next.is_some() };
        let image = image_of(&elf, next.as_ref().map(KernelImage::bytes), settings)?;
        if let Some(plain) = &plain {
            workspace::write_whole(plain, &image)?;
        }
        workspace::write_whole(&compressed, &compress(&image)?)?;
        let names: Vec<String> =
            plain.iter().chain([&compressed]).map(|path| path.display().to_string()).collect();
        to_standard_output(|out| writeln!(out, "wrote    {}", names.join(" and ")))
    }

    fn decode(&self, file: &Path) -> Result<ExitCode> {
        let mut input = Vec::new();
        if file == Path::new("-") {
            io::stdin().read_to_end(&mut input).context("cannot read standard input")?;
        } else {
            input = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        }
        let reading = match reading::read(&input) {
            Ok(reading) => reading,
            Err(error) => bail!("{}: {}", file.display(), error.reason()),
        };
        to_standard_output(|out| {
            if self.json {
                answers::write_json(&reading, out)
            } else {
                answers::write_text(&reading, out)
            }
        })?;
        Ok(ExitCode::from(answers::exit_code(&reading)))
    }
}

/// The image of an M1's probe that starts the U-Boot in the file `next` when the report has been
/// shown, and its contents. `oche` is the probe's ELF file; without it, the one that this program
/// carries is taken, or it is built.
///
/// # Errors
///
/// `next` is no U-Boot, there is no probe, or the ELF file is none.
pub(crate) fn image_before(next: &Path, oche: Option<&Path>) -> Result<(Vec<u8>, Contents)> {
    let next = KernelImage::read_u_boot(next)?;
    let elf = oche_elf(ProbeBoard::M1.package(), oche, BUILDING)?;
    let settings = Settings { seconds: SECONDS, has_next: true };
    let image = image_of(&elf, Some(next.bytes()), settings)?;
    let contents = image::contents(image.clone())?;
    Ok((image, contents))
}

/// The image: the probe with its settings, and what it starts afterwards or needs for memory.
///
/// # Errors
///
/// The ELF file is no probe.
fn image_of(elf: &OcheElf, next: Option<&[u8]>, settings: Settings) -> Result<Vec<u8>> {
    let mut image =
        flatten(&elf.bytes).with_context(|| format!("{} is not an image", elf.origin))?;
    if !settings.write_into(&mut image) {
        bail!("{} is not the probe: it has no record of settings", elf.origin);
    }
    let nothing = waiting_image();
    append(&mut image, &[(ItemKind::Kernel, next.unwrap_or(&nothing))])?;
    Ok(image)
}

/// An arm64 Image that waits for ever.
fn waiting_image() -> Vec<u8> {
    let mut image: Vec<u8> = WAIT.iter().flat_map(|word| word.to_le_bytes()).collect();
    image.resize(header::HEADER_BYTES, 0);
    let fields: [(usize, &[u8]); 2] = [
        (header::IMAGE_SIZE, &SCRATCH_BYTES.to_le_bytes()),
        (header::MAGIC_OFFSET, &header::MAGIC),
    ];
    for (offset, bytes) in fields {
        if let Some(place) = image.get_mut(offset..offset + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
    image
}

#[cfg(test)]
mod tests {
    use super::{KernelImage, SCRATCH_BYTES, waiting_image};
    use oche_boot::header;
    use std::fs;

    #[test]
    fn image_that_waits_is_one_that_boot_accepts() {
        let image = waiting_image();
        let kernel = header::parse_kernel(&image, image.len() as u64).expect("an Image");
        assert_eq!(kernel.image_size, SCRATCH_BYTES);
    }

    #[test]
    fn only_u_boot_is_started_afterwards() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("kernel");
        let mut image = waiting_image();
        fs::write(&file, &image).expect("written");
        let error = KernelImage::read_u_boot(&file).expect_err("refused").to_string();
        assert!(error.contains("no U-Boot"), "{error}");
        image.extend(b"U-Boot 2025.01 (x)\0");
        fs::write(&file, &image).expect("written");
        assert_eq!(KernelImage::read_u_boot(&file).expect("U-Boot").bytes(), image);
    }
}
