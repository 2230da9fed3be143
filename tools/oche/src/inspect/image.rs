//! The contents of a packed image, read the way Oche itself reads it.

use std::fmt::{self, Write};
use std::io::Read;

use anyhow::{Context, Result, bail};
use oche_boot::banner;
use oche_boot::header;
use oche_boot::payload::{self, Item};
use oche_types::identity;
use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::pack::kernel_image::KernelImage;

/// The contents of a packed image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Contents {
    /// The board that its Oche is for.
    pub board: String,
    /// Oche's version.
    pub version: String,
    /// The commit that it was built from, or `unknown`.
    pub commit: String,
    /// Its build id, of twelve hexadecimal digits, if it was stamped with one.
    pub build: Option<String>,
    /// Version, commit and build as Oche itself prints them.
    #[serde(skip)]
    pub release: String,
    /// Bytes of the whole image, not compressed; as in its header.
    pub image_bytes: u64,
    /// Bytes before the payload: Oche, its BSS and stacks.
    pub oche_bytes: u64,
    /// The guest's kernel.
    pub kernel: PackedKernel,
    /// Bytes of the initrd, if one is packed, and its SHA-256 in hex.
    pub initrd: Option<(u64, String)>,
    /// The options, a line each.
    pub options: String,
    /// SHA-256 of the whole image, not compressed, in hex.
    pub sha256: String,
}

/// A guest kernel in an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PackedKernel {
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes of memory that it asks for.
    pub memory_bytes: u64,
    /// Its page size in bytes, or 0 if its header does not give it.
    pub page_bytes: u64,
    /// Its version banner, if it has one.
    pub banner: Option<String>,
    /// SHA-256 in hex.
    pub sha256: String,
}

/// Reads a packed image, compressed with gzip or not.
///
/// # Errors
///
/// It is no image of Oche's, or one that would be refused at boot.
pub fn contents(file: Vec<u8>) -> Result<Contents> {
    let image = if file.starts_with(&[0x1f, 0x8b]) { expand(&file)? } else { file };
    if image.get(header::MAGIC_OFFSET..header::MAGIC_OFFSET + 4) != Some(&header::MAGIC) {
        bail!("it has no arm64 Image header");
    }
    let Some(identity) = identity::find(&image) else { bail!("no Oche is in it") };
    let release = identity.to_string();
    let (board, version) = (identity.board.to_owned(), identity.version.to_owned());
    let (commit, build) = (identity.commit.to_owned(), identity.build.map(|id| id.to_string()));
    let stated =
        image.get(header::IMAGE_SIZE..header::IMAGE_SIZE + 8).context("its header is cut short")?;
    let stated = u64::from_le_bytes(stated.try_into()?);
    if stated != image.len() as u64 {
        bail!(
            "its header gives {stated} bytes and it has {}: it is cut short, or not packed",
            image.len()
        );
    }
    // The payload follows Oche at the first page that begins with its magic.
    let oche_bytes = image
        .chunks(payload::ITEM_ALIGNMENT as usize)
        .position(|page| page.starts_with(&payload::MAGIC))
        .map(|page| page * payload::ITEM_ALIGNMENT as usize)
        .context("no payload is in it")?;
    let container = image.get(oche_bytes..).unwrap_or(&[]);
    let items = match payload::parse(container, container.len() as u64) {
        Ok(items) => items,
        Err(error) => bail!("{}", error.reason()),
    };
    let bytes = |item: Item| {
        container.get(item.offset as usize..(item.offset + item.length) as usize).unwrap_or(&[])
    };
    let kernel = bytes(items.kernel.context("no guest kernel is in it")?);
    let options = items.options.map_or(&[][..], bytes);
    Ok(Contents {
        board,
        version,
        commit,
        build,
        release,
        image_bytes: stated,
        oche_bytes: oche_bytes as u64,
        kernel: PackedKernel::read(kernel)?,
        initrd: items.initrd.map(|item| (item.length, hex_sha256(bytes(item)))),
        options: String::from_utf8(options.to_vec()).context("its options are no text")?,
        sha256: hex_sha256(&image),
    })
}

impl PackedKernel {
    fn read(bytes: &[u8]) -> Result<Self> {
        let image = KernelImage::from_bytes(bytes.to_vec()).context("its guest kernel")?;
        let memory_bytes = match header::parse_kernel(bytes, bytes.len() as u64) {
            Ok(kernel) => kernel.image_size,
            Err(error) => bail!("{}", error.reason()),
        };
        Ok(Self {
            bytes: bytes.len() as u64,
            memory_bytes,
            page_bytes: image.page_bytes(),
            banner: banner::find(bytes).map(str::to_owned),
            sha256: hex_sha256(bytes),
        })
    }
}

fn expand(file: &[u8]) -> Result<Vec<u8>> {
    let mut image = Vec::new();
    flate2::read::GzDecoder::new(file)
        .take(header::IMAGE_SIZE_LIMIT + 1)
        .read_to_end(&mut image)
        .context("it begins like a gzip file but is damaged")?;
    Ok(image)
}

pub(super) fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl fmt::Display for Contents {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kib = |bytes: u64| bytes.div_ceil(1024);
        writeln!(
            out,
            "oche     {} for {}, {} KiB",
            self.release,
            self.board,
            kib(self.oche_bytes)
        )?;
        let kernel = &self.kernel;
        let pages = match kernel.page_bytes {
            0 => "pages of a size that its header does not give".to_owned(),
            bytes => format!("{} KiB pages", bytes >> 10),
        };
        writeln!(
            out,
            "kernel   {} KiB, {} KiB in memory, {pages}",
            kib(kernel.bytes),
            kib(kernel.memory_bytes)
        )?;
        if let Some(banner) = &kernel.banner {
            writeln!(out, "         {banner}")?;
        }
        writeln!(out, "         sha256 {}", kernel.sha256)?;
        match &self.initrd {
            Some((bytes, sha256)) => {
                writeln!(out, "initrd   {} KiB\n         sha256 {sha256}", kib(*bytes))?
            }
            None => writeln!(out, "initrd   none: the loader's, if it gives one")?,
        }
        for line in self.options.lines() {
            writeln!(out, "option   {line}")?;
        }
        writeln!(out, "image    {} KiB\n         sha256 {}", kib(self.image_bytes), self.sha256)
    }
}

#[cfg(test)]
mod tests {
    use super::contents;
    use crate::pack::append;
    use oche_boot::header;
    use oche_boot::payload::ItemKind;
    use oche_types::identity::{self, BuildId};

    fn kernel() -> Vec<u8> {
        let mut bytes = vec![0; 8192];
        bytes[header::IMAGE_SIZE..header::IMAGE_SIZE + 8]
            .copy_from_slice(&0x1_0000_u64.to_le_bytes());
        bytes[header::FLAGS] = 0b1010;
        bytes[header::MAGIC_OFFSET..header::MAGIC_OFFSET + 4].copy_from_slice(&header::MAGIC);
        bytes[500..600].copy_from_slice(&[b' '; 100]);
        bytes[500..534].copy_from_slice(b"Linux version %s is a format only.");
        bytes[700..740].copy_from_slice(b"Linux version 6.1.0-1-arm64 (x@y) #1\nxxx");
        bytes
    }

    fn image() -> Vec<u8> {
        let mut image = vec![0; 8192];
        image[header::MAGIC_OFFSET..header::MAGIC_OFFSET + 4].copy_from_slice(&header::MAGIC);
        image[4096..4096 + identity::RECORD_BYTES]
            .copy_from_slice(&identity::record("m1", "9.8.7"));
        assert!(identity::stamp(&mut image[4096..], "c0ffee", BuildId::parse("3f2a9c1be0d4")));
        let items: [(ItemKind, &[u8]); 3] = [
            (ItemKind::Kernel, &kernel()),
            (ItemKind::Initrd, &[5; 10]),
            (ItemKind::Options, b"oche.pool=64M\n"),
        ];
        append(&mut image, &items).expect("packed");
        image
    }

    #[test]
    fn what_was_packed_is_listed_in_full() {
        let found = contents(image()).expect("an image");
        assert_eq!((found.board.as_str(), found.version.as_str()), ("m1", "9.8.7"));
        assert_eq!(found.kernel.page_bytes, 4096);
        assert_eq!(found.kernel.banner.as_deref(), Some("Linux version 6.1.0-1-arm64 (x@y) #1"));
        assert_eq!(found.initrd.as_ref().map(|(bytes, _)| *bytes), Some(10));
        let text = found.to_string();
        for line in [
            "oche     9.8.7 (c0ffee, build 3f2a9c1be0d4) for m1, 8 KiB",
            "option   oche.pool=64M",
            "4 KiB pages",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn an_image_that_is_cut_or_foreign_is_refused() {
        let refusal = |image: Vec<u8>| format!("{:#}", contents(image).expect_err("refused"));
        let whole = image();
        assert!(refusal(whole[..whole.len() - 1].to_vec()).contains("cut short"));
        assert!(refusal(kernel()).contains("no Oche"));
        assert!(refusal(vec![0; 4096]).contains("no arm64 Image header"));
        let mut damaged = whole.clone();
        damaged[8192 + 8] = 9;
        assert!(refusal(damaged).contains("unknown version"));
        assert!(refusal(vec![0x1f, 0x8b, 8, 0]).contains("damaged"));
    }
}
