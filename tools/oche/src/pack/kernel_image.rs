//! Judging a guest kernel before anything is built around it.

use std::fmt;
use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use oche_boot::banner;
use oche_boot::header::{self, KernelError};

use super::zboot;

/// The largest kernel that is expanded, in bytes: Oche accepts no larger one.
const EXPANDED_BYTES_LIMIT: u64 = header::IMAGE_SIZE_LIMIT;

/// A raw arm64 `Image` that Oche can start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelImage {
    bytes: Vec<u8>,
}

impl KernelImage {
    /// Reads a kernel from a file, expanding gzip and EFI zboot on the way.
    ///
    /// # Errors
    ///
    /// The file cannot be read or is not a kernel that Oche can start; the error gives the remedy.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes =
            fs::read(path).with_context(|| format!("cannot read the kernel {}", path.display()))?;
        Self::from_bytes(bytes)
            .with_context(|| format!("the kernel {} cannot be started", path.display()))
    }

    /// Reads U-Boot from a file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is something else.
    pub fn read_u_boot(path: &Path) -> Result<Self> {
        let image = Self::read(path)?;
        if !banner::is_u_boot(&image.bytes) {
            bail!("{} is no U-Boot: name a u-boot-nodtb.bin", path.display());
        }
        Ok(image)
    }

    /// The version banner, if it has one.
    #[must_use]
    pub fn banner(&self) -> Option<&str> {
        banner::find(&self.bytes)
    }

    /// Takes a kernel's bytes, expanding gzip and EFI zboot on the way.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        let (bytes, _) = expand(bytes)?;
        match header::parse_kernel(&bytes, bytes.len() as u64) {
            Ok(_) => Ok(Self { bytes }),
            Err(error) => Err(refusal(error, bytes.len())),
        }
    }

    /// The raw image.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The page size the kernel was built for in bytes, or 0 if its header does not give it.
    #[must_use]
    pub fn page_bytes(&self) -> u64 {
        page_bytes(&self.bytes)
    }
}

/// How a kernel's file was compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packing {
    /// An arm64 Image, not compressed.
    Raw,
    /// gzip.
    Gzip,
    /// An EFI zboot file; the name of its compression.
    Zboot(String),
}

impl fmt::Display for Packing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raw => out.write_str("raw Image"),
            Self::Gzip => out.write_str("Image in gzip"),
            Self::Zboot(name) => write!(out, "EFI zboot with {name}"),
        }
    }
}

/// Expands gzip and EFI zboot. What comes out need not be a kernel.
///
/// # Errors
///
/// It is damaged, or compressed in a way that Oche does not know; the error gives the remedy.
pub fn expand(bytes: Vec<u8>) -> Result<(Vec<u8>, Packing)> {
    let (bytes, packing) = match bytes.starts_with(&[0x1f, 0x8b]) {
        true => (expand_gzip(&bytes)?, Packing::Gzip),
        false => (bytes, Packing::Raw),
    };
    if zboot::is_zboot(&bytes) {
        let packing = Packing::Zboot(zboot::compression(&bytes)?);
        return Ok((zboot::expand(&bytes, EXPANDED_BYTES_LIMIT)?, packing));
    }
    match how_to_expand(&bytes) {
        Some(advice) => bail!("{advice}"),
        None => Ok((bytes, packing)),
    }
}

/// The reason for a refused header, with the remedy; `length` is the image's in bytes.
#[must_use]
pub fn refusal(error: KernelError, length: usize) -> anyhow::Error {
    match error {
        KernelError::Truncated => anyhow!("it is only {length} bytes long: name an arm64 Image"),
        KernelError::BadMagic => {
            anyhow!("it is not an arm64 Image: name a kernel such as Debian's /boot/vmlinuz")
        }
        KernelError::Pages64K => anyhow!(
            "it is built for 64 KiB pages, which a DART cannot map: choose a kernel with 4 KiB or 16 KiB pages"
        ),
        KernelError::BigEndian => {
            anyhow!("it is big-endian: choose a little-endian kernel")
        }
        other => anyhow!("{}", other.reason()),
    }
}

/// The page size that an arm64 Image's header gives, in bytes, or 0 if it gives none.
///
/// Source: Linux `Documentation/arm64/booting.rst`, flags bits 2:1.
#[must_use]
pub fn page_bytes(image: &[u8]) -> u64 {
    match image.get(header::FLAGS).map_or(0, |flags| flags >> 1 & 3) {
        1 => 4 << 10,
        2 => 16 << 10,
        3 => 64 << 10,
        _ => 0,
    }
}

fn expand_gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut expanded = Vec::new();
    flate2::read::GzDecoder::new(bytes)
        .take(EXPANDED_BYTES_LIMIT + 1)
        .read_to_end(&mut expanded)
        .context("it begins like a gzip file but is damaged: fetch it again")?;
    if expanded.len() as u64 > EXPANDED_BYTES_LIMIT {
        bail!("it expands to more than 1 GiB: no kernel does");
    }
    Ok(expanded)
}

/// The command that unpacks a kernel whose compression Oche does not know.
fn how_to_expand(bytes: &[u8]) -> Option<&'static str> {
    const PACKINGS: [(&[u8], &str); 4] = [
        (
            b"\xfd7zXZ\0",
            "it is compressed with xz: expand it with `xz -dc KERNEL >Image` and name that",
        ),
        (
            &[0x28, 0xb5, 0x2f, 0xfd],
            "it is compressed with zstd: expand it with `zstd -dc KERNEL >Image` and name that",
        ),
        (
            b"BZh",
            "it is compressed with bzip2: expand it with `bzip2 -dc KERNEL >Image` and name that",
        ),
        (
            &[0x02, 0x21, 0x4c, 0x18],
            "it is compressed with lz4: expand it with `lz4 -dc KERNEL >Image` and name that",
        ),
    ];
    PACKINGS.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, advice)| *advice)
}

#[cfg(test)]
mod tests {
    use super::KernelImage;
    use oche_boot::header;
    use std::io::Write;

    fn kernel(flags: u8) -> Vec<u8> {
        let mut bytes = vec![0; 8192];
        bytes[header::IMAGE_SIZE..header::IMAGE_SIZE + 8]
            .copy_from_slice(&0x1_0000_u64.to_le_bytes());
        bytes[header::FLAGS] = flags;
        bytes[header::MAGIC_OFFSET..header::MAGIC_OFFSET + 4].copy_from_slice(&header::MAGIC);
        bytes
    }

    fn refusal(bytes: Vec<u8>) -> String {
        KernelImage::from_bytes(bytes).unwrap_err().to_string()
    }

    #[test]
    fn kernels_with_4k_and_16k_pages_are_taken() {
        assert_eq!(KernelImage::from_bytes(kernel(0b1010)).expect("a kernel").page_bytes(), 4096);
        assert_eq!(KernelImage::from_bytes(kernel(0b1100)).expect("a kernel").page_bytes(), 16384);
    }

    #[test]
    fn a_kernel_with_64k_pages_is_refused_with_what_to_choose() {
        assert!(refusal(kernel(0b1110)).contains("choose a kernel with 4 KiB or 16 KiB pages"));
    }

    #[test]
    fn a_gzipped_kernel_is_expanded() {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&kernel(0b1010)).expect("packed");
        let packed = packed.finish().expect("packed");
        assert_eq!(
            KernelImage::from_bytes(packed.clone()).expect("a kernel").bytes(),
            kernel(0b1010)
        );
        assert!(refusal(packed[..packed.len() / 2].to_vec()).contains("damaged"));
    }

    #[test]
    fn other_packings_are_refused_with_the_command_to_type() {
        for (start, word) in [
            (b"\xfd7zXZ\0".as_slice(), "xz -dc"),
            (b"MZ\x40\xfazimg", "zboot"),
            (b"\x28\xb5\x2f\xfd", "zstd -dc"),
            (b"BZh9", "bzip2 -dc"),
            (b"\x02\x21\x4c\x18", "lz4 -dc"),
        ] {
            let mut bytes = start.to_vec();
            bytes.resize(8192, 0);
            let message = refusal(bytes);
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn short_and_foreign_files_are_refused() {
        assert!(refusal(Vec::new()).contains("0 bytes"));
        assert!(refusal(kernel(0b1010)[..63].to_vec()).contains("63 bytes"));
        assert!(refusal(vec![0x7f; 4096]).contains("not an arm64 Image"));
    }

    #[test]
    fn an_unreadable_kernel_is_named() {
        let error =
            KernelImage::read(std::path::Path::new("/no/such/kernel")).unwrap_err().to_string();
        assert!(error.contains("cannot read the kernel /no/such/kernel"), "{error}");
    }
}
