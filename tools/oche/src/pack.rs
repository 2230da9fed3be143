//! Packing Oche, a guest kernel, its initrd and the options into one arm64 `Image`.
//!
//! ```text
//! 0            __image_end (page-aligned)                                     image_size
//! | Oche, flat, with zeros for BSS and stacks | header | kernel | initrd | options | a page |
//! ```
//! The last page is for the code with which Oche starts a kernel natively (`oche_boot::native`).
//! The container's format is `oche_boot::payload`'s; this is the side that writes it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use oche_boot::header;
use oche_boot::options::{BootOptions, retired};
use oche_boot::payload::{self, ENTRY_BYTES, HEADER_BYTES, ITEM_ALIGNMENT, ItemKind};
use oche_qemu_virt::iommu_map::Choice;

use crate::image_source::OcheElf;
pub use crate::linked_image::{flatten, symbol};
use crate::pack::kernel_image::KernelImage;
use crate::workspace;

pub mod command;
pub mod kernel_image;
mod zboot;

/// The guest's part of a packed image.
#[derive(Clone, Debug, Default)]
pub struct GuestFiles {
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// The guest's initrd, if it has one.
    pub initrd: Option<PathBuf>,
    /// BootOptions for Oche: names such as `oche.pool`, with their values.
    pub options: Vec<(String, String)>,
}

/// A packed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedImage {
    /// The packed file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// The guest kernel's page size in bytes, or 0 if its header does not give it.
    pub guest_page_bytes: u64,
}

/// Packs Oche's ELF file and a guest into one file that QEMU or m1n1 boots.
///
/// # Errors
///
/// A file cannot be read, the kernel is not one that Oche can start, an option is not one, or the
/// result cannot be written. Each error gives the remedy.
pub fn pack(oche: &Path, guest: &GuestFiles, into: &Path) -> Result<PackedImage> {
    let elf = OcheElf::read(oche)?;
    let (image, guest_page_bytes) = image_of(&elf, guest)?;
    workspace::write_whole(into, &image)?;
    Ok(PackedImage { path: into.to_owned(), bytes: image.len() as u64, guest_page_bytes })
}

/// The packed file's bytes, and the guest kernel's page size as in [`PackedImage`].
fn image_of(oche: &OcheElf, guest: &GuestFiles) -> Result<(Vec<u8>, u64)> {
    let kernel = KernelImage::read(&guest.kernel)?;
    let initrd = match &guest.initrd {
        Some(path) => Some(
            fs::read(path).with_context(|| format!("cannot read the initrd {}", path.display()))?,
        ),
        None => None,
    };
    let options = options_text(&guest.options)?;
    let mut image =
        flatten(&oche.bytes).with_context(|| format!("{} is not an image of Oche", oche.origin))?;
    let mut items = vec![(ItemKind::Kernel, kernel.bytes())];
    items.extend(initrd.as_deref().map(|bytes| (ItemKind::Initrd, bytes)));
    items.push((ItemKind::Options, options.as_bytes()));
    append(&mut image, &items)?;
    if image.len() as u64 > header::IMAGE_SIZE_LIMIT {
        bail!("it comes to {} MiB; no loader takes more than 1024", image.len() >> 20);
    }
    Ok((image, kernel.page_bytes()))
}

/// Appends the container with `items` to `image` and writes the new size into the Image header.
///
/// # Errors
///
/// The image is shorter than its header, or there are too many items.
pub fn append(image: &mut Vec<u8>, items: &[(ItemKind, &[u8])]) -> Result<()> {
    let start = image.len() as u64;
    image.extend(payload::MAGIC);
    image.extend(payload::VERSION.to_le_bytes());
    image.extend(u32::try_from(items.len())?.to_le_bytes());
    let mut offset =
        ((HEADER_BYTES + items.len() * ENTRY_BYTES) as u64).next_multiple_of(ITEM_ALIGNMENT);
    for (kind, bytes) in items {
        image.extend(kind.number().to_le_bytes());
        image.extend(0_u32.to_le_bytes());
        image.extend(offset.to_le_bytes());
        image.extend((bytes.len() as u64).to_le_bytes());
        offset = (offset + bytes.len() as u64).next_multiple_of(ITEM_ALIGNMENT);
    }
    for (_, bytes) in items {
        pad(image);
        image.extend_from_slice(bytes);
    }
    pad(image);
    debug_assert_eq!(
        image.len() as u64,
        start + offset,
        "the entries give the places of the items"
    );
    image.resize(image.len() + ITEM_ALIGNMENT as usize, 0);
    let size = (image.len() as u64).to_le_bytes();
    let place = image.get_mut(header::IMAGE_SIZE..header::IMAGE_SIZE + size.len());
    place.context("the image is shorter than its header")?.copy_from_slice(&size);
    Ok(())
}

fn pad(image: &mut Vec<u8>) {
    image.resize((image.len() as u64).next_multiple_of(ITEM_ALIGNMENT) as usize, 0);
}

/// The options as lines of `NAME=VALUE`.
fn options_text(options: &[(String, String)]) -> Result<String> {
    let mut text = String::new();
    for (name, value) in options {
        let is_name = name.strip_prefix("oche.").is_some_and(|rest| {
            !rest.is_empty()
                && rest.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-')
        });
        if !is_name {
            bail!(
                "`{name}` is not an option of Oche: options are spelled oche.NAME=VALUE, such as oche.pool=256M"
            );
        }
        if value.contains(['\n', '\0']) {
            bail!("the value of {name} holds a line break");
        }
        text.push_str(&format!("{name}={value}\n"));
    }
    // Oche itself would name what it does not know on its console and go on; here it can still be
    // put right.
    let mut refused = None;
    let mut taken = BootOptions::default();
    taken.take_text(&text, &mut |name| refused = refused.take().or(Some(name.to_owned())));
    if taken.iommu_map.is_some_and(|map| Choice::parse(map).is_none()) {
        refused = refused.or(Some("oche.iommu-map".to_owned()));
    }
    if let Some(name) = refused {
        if let Some(why) = retired(&name) {
            bail!("not an option any more: {name}: {why}");
        }
        bail!("Oche does not take this {name}: `{}`", value_in(options, &name));
    }
    Ok(text)
}

/// The last value that is given to `name`, or nothing.
fn value_in<'a>(options: &'a [(String, String)], name: &str) -> &'a str {
    options.iter().rev().find(|(known, _)| known == name).map_or("", |(_, value)| value)
}

#[cfg(test)]
mod tests;
