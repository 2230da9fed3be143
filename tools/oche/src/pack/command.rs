//! `oche pack`: its arguments and what it does.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use super::kernel_image::KernelImage;
use super::{GuestFiles, image_of};
use crate::destination::refuse_input;
use crate::image_source::oche_elf;
use crate::inspect::image::{self, Contents};
use crate::kernel_check::warnings;
use crate::output::to_standard_output;
use crate::workspace;

/// Pack Oche, a kernel, an initrd and options into one arm64 Image.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  oche pack --u-boot u-boot-nodtb.bin --output oche.img
  oche pack --u-boot u-boot-nodtb.bin --option oche.log=debug --output oche.img
  oche pack --kernel /boot/vmlinuz --output oche.img
  oche pack --kernel Image --initrd initrd.img --option oche.bootargs='console=ttySAC0' --output oche.img

Two files come out: the Image, and the same compressed with gzip beside it (.gz). With an output that ends
in .gz only the compressed one comes out. `oche inspect` lists what either contains. For an M1, what a
kernel of Linux has no driver for is printed as a warning; `oche check-kernel` has the reasons.

On a Mac, pack U-Boot: GRUB, updates of the kernel and installer media then work as without Oche. `oche
install` packs it and puts it into m1n1's boot.bin.")]
pub struct PackArguments {
    /// Pack U-Boot (u-boot-nodtb.bin), the recommended way on a Mac
    #[arg(long, value_name = "FILE", required_unless_present = "kernel")]
    u_boot: Option<PathBuf>,
    /// Pack this kernel of the guest: an arm64 Image (raw, gzip or EFI zboot), or u-boot-nodtb.bin
    #[arg(long, conflicts_with = "u_boot")]
    kernel: Option<PathBuf>,
    /// Pack this initrd; without it the guest gets the loader's, if there is one
    #[arg(long, conflicts_with = "u_boot")]
    initrd: Option<PathBuf>,
    /// Set an option of Oche; may be repeated, and the last of a name counts
    #[arg(long = "option", value_name = "oche.NAME=VALUE", value_parser = parse_option)]
    options: Vec<(String, String)>,
    /// Pack for this board
    #[arg(long, value_enum, default_value_t = PackBoard::M1)]
    board: PackBoard,
    /// Pack this ELF file of Oche instead of the one in this program, or the one that its checkout
    /// builds
    #[arg(long)]
    oche: Option<PathBuf>,
    /// Write the image to this file
    #[arg(long)]
    output: PathBuf,
}

/// A machine that Oche runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PackBoard {
    /// An Apple M1 Mac, through m1n1
    M1,
    /// QEMU's virt machine
    QemuVirt,
}

impl PackBoard {
    /// The board's crate.
    #[must_use]
    pub fn package(self) -> &'static str {
        match self {
            Self::M1 => "oche-m1",
            Self::QemuVirt => "oche-qemu-virt",
        }
    }

    /// The board's name in the image.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::M1 => "m1",
            Self::QemuVirt => "qemu-virt",
        }
    }
}

impl PackArguments {
    /// Packs, and prints the contents of the image.
    ///
    /// # Errors
    ///
    /// As [`super::pack`]; or Oche cannot be built, or is one for another board.
    pub fn run(&self) -> Result<()> {
        let Outputs { plain, compressed } = outputs(&self.output);
        let kernel = self.u_boot.as_ref().or(self.kernel.as_ref()).context("no kernel is named")?;
        let guest = GuestFiles {
            kernel: kernel.clone(),
            initrd: self.initrd.clone(),
            options: self.options.clone(),
        };
        // Wrong input is reported before anything is built.
        let inputs = [Some(kernel), self.initrd.as_ref(), self.oche.as_ref()];
        for output in plain.iter().chain([&compressed]) {
            refuse_input(output, inputs.iter().flatten().map(|input| input.as_path()))?;
        }
        let kernel = match &self.u_boot {
            Some(file) => KernelImage::read_u_boot(file)?,
            None => KernelImage::read(kernel)?,
        };
        super::options_text(&guest.options)?;
        if self.board == PackBoard::M1 {
            for line in warnings::of_packed(&kernel, &guest.kernel, guest.initrd.as_deref()) {
                crate::message!("oche: warning: {line}");
            }
        }
        let (image, contents) = image_for(self.board, self.oche.as_deref(), &guest)?;
        if let Some(plain) = &plain {
            workspace::write_whole(plain, &image)?;
        }
        workspace::write_whole(&compressed, &compress(&image)?)?;
        let names: Vec<String> =
            plain.iter().chain([&compressed]).map(|path| path.display().to_string()).collect();
        to_standard_output(|out| writeln!(out, "{contents}wrote    {}", names.join(" and ")))
    }
}

/// The image of Oche for `board` with `guest`, and its contents. `oche` is its ELF file; without
/// it, the one that this program carries is taken, or Oche is built.
///
/// # Errors
///
/// As [`super::pack`]; or there is no Oche, or it is one for another board.
pub(crate) fn image_for(
    board: PackBoard,
    oche: Option<&Path>,
    guest: &GuestFiles,
) -> Result<(Vec<u8>, Contents)> {
    super::options_text(&guest.options)?;
    let oche = oche_elf(board.package(), oche, "Oche for EL2")?;
    let (image, _) = image_of(&oche, guest)?;
    let contents = image::contents(image.clone())?;
    if contents.board != board.name() {
        bail!("{} is for {}, not for {}", oche.origin, contents.board, board.name());
    }
    Ok((image, contents))
}

/// The files to write.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outputs {
    pub(crate) plain: Option<PathBuf>,
    pub(crate) compressed: PathBuf,
}

/// The file that was asked for, and the same name with `.gz` behind it; or, if it ends so, that one
/// alone.
pub(crate) fn outputs(output: &Path) -> Outputs {
    if output.extension().is_some_and(|extension| extension == "gz") {
        return Outputs { plain: None, compressed: output.to_owned() };
    }
    let mut name = output.as_os_str().to_owned();
    name.push(".gz");
    Outputs { plain: Some(output.to_owned()), compressed: PathBuf::from(name) }
}

/// gzip without a name or a time: the same image gives the same bytes.
pub(crate) fn compress(image: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(image).context("cannot compress the image")?;
    encoder.finish().context("cannot compress the image")
}

pub(crate) fn parse_option(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("options are spelled oche.NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{Outputs, compress, outputs};
    use std::path::{Path, PathBuf};

    #[test]
    fn the_compressed_file_stands_beside_the_other_and_is_always_the_same() {
        let plain = Some(PathBuf::from("a/oche.img"));
        let compressed = PathBuf::from("a/oche.img.gz");
        let both = Outputs { plain, compressed: compressed.clone() };
        assert_eq!(outputs(Path::new("a/oche.img")), both);
        assert_eq!(outputs(&compressed), Outputs { plain: None, compressed: compressed.clone() });
        let once = compress(&[7; 1000]).expect("compressed");
        assert_eq!(once, compress(&[7; 1000]).expect("compressed"));
        assert_eq!(once[4..8], [0; 4], "no time");
    }
}
