//! One payload after the other, recognized as m1n1 recognizes them.

use std::io::Read;

use anyhow::{Context, Result, bail};
use lzma_rust2::XzReader;
use oche_boot::banner;
use oche_boot::blob;
use oche_boot::header;
use oche_boot::normalize::{MAX_NORMALIZED_BYTES, normalize};
use oche_boot::tree::Tree;
use oche_types::identity;
use schemars::JsonSchema;
use serde::Serialize;

use crate::inspect::image::{self, Contents};

const GZIP: &[u8] = &[0x1f, 0x8b];
const XZ: &[u8] = b"\xfd7zXZ\0";
const FDT: &[u8] = &[0xd0, 0x0d, 0xfe, 0xed];
const CPIO: &[u8] = b"07070";
const SIGNATURE: &[u8] = b"m1n1_sig";
const INITRAMFS: &[u8] = b"m1n1_initramfs";
const LOGO: &[u8] = b"m1n1_logo_256128";
/// Two pictures, 256 and 128 pixels wide and high, of four bytes a pixel.
const LOGO_BYTES: usize = LOGO.len() + 4 * (256 * 256 + 128 * 128);
const SEP_FIRMWARE: &[u8] = &[0x16, 0x04, b'I', b'M', b'G', b'4'];
/// The offset of [`SEP_FIRMWARE`] in that firmware.
const SEP_FIRMWARE_OFFSET: usize = 5;
const END_MARK: &[u8] = &[0; 4];
/// The longest name of a variable, and the longest value, in bytes.
const NAME_LIMIT: usize = 64;
const VALUE_LIMIT: usize = 1024;
/// The most bytes that m1n1 expands a payload to.
const EXPANDED_LIMIT: u64 = 1 << 30;

/// A payload in the file.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Payload {
    /// Where it begins.
    pub offset: u64,
    /// Its bytes in the file; `None` for a kernel that is not compressed, whose end m1n1 does not
    /// know.
    pub bytes: Option<u64>,
    /// How it is compressed.
    pub compression: Option<Compression>,
    /// What it is, expanded.
    pub content: Content,
}

/// How a payload is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// gzip.
    Gzip,
    /// xz.
    Xz,
}

/// What a payload is.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Content {
    /// An arm64 Image.
    Kernel(Box<KernelPayload>),
    /// A device tree.
    DeviceTree(TreePayload),
    /// An initramfs.
    Initramfs {
        /// Its bytes.
        bytes: u64,
    },
    /// A line `NAME=VALUE`.
    Variable {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// A picture that m1n1 shows instead of its own.
    Logo,
    /// A signature, which m1n1 passes over.
    Signature,
}

/// A kernel.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct KernelPayload {
    /// Its bytes, expanded; of the last kernel alone, which is the one that m1n1 starts.
    #[serde(skip)]
    pub image: Vec<u8>,
    /// How many bytes it has, expanded.
    pub bytes: u64,
    /// Their SHA-256 in hex.
    pub sha256: String,
    /// Bytes of memory that its header asks for.
    pub memory_bytes: u64,
    /// Its version, if it has a known banner.
    pub banner: Option<String>,
    /// What is inside, if it is an image that `oche pack` wrote.
    pub oche: Option<Contents>,
    /// Why Oche is in it and its image cannot be used.
    pub damage: Option<String>,
}

/// A device tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TreePayload {
    /// The strings of the root's `compatible`; the first names the Mac.
    pub compatible: Vec<String>,
    /// The root's `model`.
    pub model: String,
    /// Bytes of the tree.
    pub bytes: u64,
    /// Why Oche would refuse the tree.
    pub refusal: Option<&'static str>,
}

/// Why m1n1 reads no further payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum End {
    /// The file ends: m1n1's first stage appends its variables and an end mark.
    EndOfFile,
    /// Four zero bytes, or firmware of the SEP.
    EndMark {
        /// The offset of the mark.
        offset: u64,
    },
    /// A kernel that is not compressed has no length that m1n1 knows.
    UncompressedKernel {
        /// The offset of the kernel.
        offset: u64,
        /// Bytes behind it in the file, which m1n1 does not read.
        bytes_behind: u64,
    },
    /// Bytes that m1n1 recognizes as nothing.
    Unknown {
        /// Their offset.
        offset: u64,
        /// The first eight of them.
        bytes: Vec<u8>,
    },
    /// A payload that m1n1 refuses.
    Refused {
        /// Its offset.
        offset: u64,
        /// The reason.
        reason: String,
    },
}

/// A step of the walk.
enum Found {
    /// A payload, and the offset behind it.
    Payload(Payload, usize),
    /// A kernel that is not compressed, and its bytes: m1n1 does not know them.
    Kernel(Payload, u64),
    /// Nothing further.
    End(End),
}

/// Every payload from `start` on, and why there are no more.
pub(super) fn walk(file: &[u8], start: usize) -> (Vec<Payload>, End) {
    let mut payloads = Vec::new();
    let mut at = start;
    loop {
        match next(file, at) {
            Found::Payload(payload, behind) => {
                forget_kernels(&mut payloads, &payload);
                payloads.push(payload);
                at = behind;
            }
            Found::Kernel(payload, image_bytes) => {
                let offset = payload.offset;
                forget_kernels(&mut payloads, &payload);
                payloads.push(payload);
                let bytes_behind = file.len() as u64 - offset - image_bytes;
                return (payloads, End::UncompressedKernel { offset, bytes_behind });
            }
            Found::End(end) => return (payloads, end),
        }
    }
}

/// Drops the bytes of earlier kernels, if `payload` is a kernel: a crafted file may have many.
fn forget_kernels(payloads: &mut [Payload], payload: &Payload) {
    if let Content::Kernel(_) = payload.content {
        for earlier in payloads {
            if let Content::Kernel(kernel) = &mut earlier.content {
                kernel.image = Vec::new();
            }
        }
    }
}

fn next(file: &[u8], at: usize) -> Found {
    let offset = at as u64;
    let rest = match file.get(at..) {
        Some(rest) if !rest.is_empty() => rest,
        _ => return Found::End(End::EndOfFile),
    };
    let refused = |reason: String| Found::End(End::Refused { offset, reason });
    let compression = if rest.starts_with(GZIP) {
        Some(Compression::Gzip)
    } else {
        rest.starts_with(XZ).then_some(Compression::Xz)
    };
    let known = match compression {
        Some(compression) => compressed(compression, rest),
        None => plain(rest),
    };
    match known {
        Ok(Some((content, bytes))) => {
            let is_bounded = compression.is_some() || !matches!(content, Content::Kernel(_));
            let known = is_bounded.then_some(bytes as u64);
            let payload = Payload { offset, bytes: known, compression, content };
            if is_bounded {
                Found::Payload(payload, at + bytes)
            } else {
                Found::Kernel(payload, bytes as u64)
            }
        }
        Ok(None) if is_end(rest) => Found::End(End::EndMark { offset }),
        Ok(None) => {
            let bytes = rest.iter().take(8).copied().collect();
            Found::End(End::Unknown { offset, bytes })
        }
        Err(error) => refused(format!("{error:#}")),
    }
}

fn is_end(rest: &[u8]) -> bool {
    rest.starts_with(END_MARK)
        || rest.get(SEP_FIRMWARE_OFFSET..).is_some_and(|rest| rest.starts_with(SEP_FIRMWARE))
}

/// What a compressed payload is, and its bytes in the file.
fn compressed(compression: Compression, rest: &[u8]) -> Result<Option<(Content, usize)>> {
    let (expanded, left) = match compression {
        Compression::Gzip => {
            let mut decoder = flate2::bufread::GzDecoder::new(rest);
            (expand(&mut decoder, "gzip")?, decoder.into_inner().len())
        }
        Compression::Xz => {
            let mut decoder = XzReader::new(rest, false);
            let expanded = expand(&mut decoder, "xz")?;
            let left = decoder.into_inner().len();
            check_xz(rest.get(..rest.len() - left).unwrap_or_default())?;
            (expanded, left)
        }
    };
    let bytes = rest.len() - left;
    let content = if expanded.starts_with(FDT) {
        let tree = tree(&expanded)?;
        if tree.bytes != expanded.len() as u64 {
            bail!("a device tree of {} bytes in {} bytes", tree.bytes, expanded.len());
        }
        Content::DeviceTree(tree)
    } else if expanded.starts_with(CPIO) {
        Content::Initramfs { bytes: expanded.len() as u64 }
    } else if is_kernel(&expanded) {
        Content::Kernel(Box::new(kernel(expanded)?))
    } else {
        bail!("it expands to {} bytes, which m1n1 recognizes as nothing", expanded.len());
    };
    Ok(Some((content, bytes)))
}

/// Whether m1n1's decoder takes the `stream`: one block, whose header has no sizes, and LZMA2 as
/// the only filter. Source: m1n1 `src/minilzlib/xzstream.c`, `XzDecodeBlockHeader`; The .xz File
/// Format 1.2, 2.1 and 3.1.
pub(super) fn check_xz(stream: &[u8]) -> Result<()> {
    const ADVICE: &str = "compress it with gzip, or with `xz --threads=1`";
    // Header of 12 bytes, no flags, filter LZMA2 with one byte of properties.
    if stream.get(12..16) != Some(&[2, 0, 0x21, 1]) {
        bail!("m1n1 takes no xz block of this form: {ADVICE}");
    }
    let footer = stream.len().checked_sub(12).context("it is cut short")?;
    let index_bytes = (word(stream, footer + 4)? + 1) * 4;
    let index = footer.checked_sub(index_bytes).context("its xz index is damaged")?;
    if stream.get(index..index + 2) != Some(&[0, 1]) {
        bail!("m1n1 takes no xz file of several blocks: {ADVICE}");
    }
    Ok(())
}

fn expand(decoder: &mut impl Read, what: &str) -> Result<Vec<u8>> {
    let mut expanded = Vec::new();
    decoder
        .take(EXPANDED_LIMIT + 1)
        .read_to_end(&mut expanded)
        .with_context(|| format!("it begins like a {what} file but is damaged"))?;
    if expanded.len() as u64 > EXPANDED_LIMIT {
        bail!("it expands to more than 1 GiB, which m1n1 has no room for");
    }
    Ok(expanded)
}

/// What a payload that is not compressed is, and its bytes in the file.
fn plain(rest: &[u8]) -> Result<Option<(Content, usize)>> {
    if rest.starts_with(FDT) {
        let tree = tree(rest)?;
        let bytes = tree.bytes as usize;
        return Ok(Some((Content::DeviceTree(tree), bytes)));
    }
    if rest.starts_with(CPIO) {
        bail!("m1n1 takes an initramfs only if it is compressed");
    }
    if is_kernel(rest) {
        let bytes = memory_bytes(rest)?.min(rest.len() as u64) as usize;
        let image = rest.get(..bytes).unwrap_or(rest).to_vec();
        return Ok(Some((Content::Kernel(Box::new(kernel(image)?)), bytes)));
    }
    if rest.starts_with(SIGNATURE) {
        let bytes = word(rest, SIGNATURE.len())?;
        if bytes == 0 {
            bail!("a signature of no bytes, at which m1n1 hangs");
        }
        return Ok(Some((Content::Signature, whole(rest, bytes)?)));
    }
    if rest.starts_with(INITRAMFS) {
        let bytes = word(rest, INITRAMFS.len())?;
        let end = whole(rest, INITRAMFS.len() + 4 + bytes)?;
        return Ok(Some((Content::Initramfs { bytes: bytes as u64 }, end)));
    }
    if rest.starts_with(LOGO) {
        return Ok(Some((Content::Logo, whole(rest, LOGO_BYTES)?)));
    }
    Ok(variable(rest).map(|(name, value, bytes)| (Content::Variable { name, value }, bytes)))
}

/// `bytes`, if the file has as many.
fn whole(rest: &[u8], bytes: usize) -> Result<usize> {
    if bytes > rest.len() {
        bail!("it is {bytes} bytes long, and the file ends after {}", rest.len());
    }
    Ok(bytes)
}

fn word(rest: &[u8], offset: usize) -> Result<usize> {
    let bytes = rest.get(offset..offset + 4).context("it is cut short")?;
    Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
}

fn is_kernel(bytes: &[u8]) -> bool {
    bytes.get(header::MAGIC_OFFSET..).is_some_and(|rest| rest.starts_with(&header::MAGIC))
}

/// The size in a kernel's header.
fn memory_bytes(kernel: &[u8]) -> Result<u64> {
    let field = kernel.get(header::IMAGE_SIZE..header::IMAGE_SIZE + 8);
    Ok(u64::from_le_bytes(field.context("its header is cut short")?.try_into()?))
}

fn kernel(bytes: Vec<u8>) -> Result<KernelPayload> {
    let memory_bytes = memory_bytes(&bytes)?;
    let (oche, damage) = match identity::find(&bytes) {
        None => (None, None),
        Some(_) => match image::contents(bytes.clone()) {
            Ok(contents) => (Some(contents), None),
            Err(error) => (None, Some(format!("{error:#}"))),
        },
    };
    let banner = if oche.is_some() { None } else { banner::find(&bytes).map(str::to_owned) };
    let sha256 = image::hex_sha256(&bytes);
    let length = bytes.len() as u64;
    Ok(KernelPayload { image: bytes, bytes: length, sha256, memory_bytes, banner, oche, damage })
}

/// The device tree at the beginning of `rest`, for what it is compatible with.
///
/// # Errors
///
/// It is none, or is cut short.
pub(crate) fn tree(rest: &[u8]) -> Result<TreePayload> {
    let bytes = blob::total_size(rest).context("its FDT header is damaged")?;
    let own = rest.get(..whole(rest, bytes)?).unwrap_or_default();
    let mut buffer = vec![0; MAX_NORMALIZED_BYTES];
    let tree = match normalize(own, &mut buffer) {
        Ok(blob) => Tree::new(blob),
        Err(refusal) => {
            let refusal = Some(refusal.reason());
            let (compatible, model) = (Vec::new(), String::new());
            return Ok(TreePayload { compatible, model, bytes: bytes as u64, refusal });
        }
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let strings = tree.root().strings("compatible").filter(|text| !text.is_empty());
    Ok(TreePayload {
        compatible: strings.map(text).collect(),
        model: tree.root().first_string("model").map(text).unwrap_or_default(),
        bytes: bytes as u64,
        refusal: None,
    })
}

/// Name, value and bytes of the variable at the beginning of `rest`.
fn variable(rest: &[u8]) -> Option<(String, String, usize)> {
    let line = |rest: &[u8], limit: usize, mark: u8| {
        let text = rest.iter().take(limit + 1).take_while(|byte| **byte != 0);
        text.copied().position(|byte| byte == mark)
    };
    let name = line(rest, NAME_LIMIT, b'=')?;
    let value = line(rest.get(name + 1..)?, VALUE_LIMIT, b'\n')?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let end = name + 1 + value;
    Some((text(rest.get(..name)?), text(rest.get(name + 1..end)?), end + 1))
}
