//! The image that an ELF file of Oche becomes in memory.

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSegment, ObjectSymbol};
use oche_boot::header;
use oche_boot::payload::ITEM_ALIGNMENT;

/// The largest image of Oche that is accepted, in bytes, so that a damaged ELF file cannot fill
/// memory.
const IMAGE_BYTES_LIMIT: u64 = 256 << 20;

/// Lays out an ELF file's loadable segments by physical address, up to the symbol `__image_end`.
///
/// # Errors
///
/// The bytes are no ELF file, it has no `__image_end` on a page border, or a segment lies outside.
pub fn flatten(elf: &[u8]) -> Result<Vec<u8>> {
    let file = object::read::elf::ElfFile64::<object::Endianness>::parse(elf)
        .context("it is not an ELF file")?;
    let Some(base) = file.segments().map(|segment| segment.address()).min() else {
        bail!("it has no loadable segment");
    };
    let end = file
        .symbols()
        .find(|symbol| symbol.name() == Ok("__image_end"))
        .map(|symbol| symbol.address())
        .context("it has no symbol __image_end: was it linked with boot/image.ld?")?;
    let size = end
        .checked_sub(base)
        .filter(|size| *size <= IMAGE_BYTES_LIMIT)
        .context("__image_end is misplaced")?;
    if !size.is_multiple_of(ITEM_ALIGNMENT) {
        bail!("__image_end is not on a 4 KiB border");
    }
    let mut image = vec![0; usize::try_from(size)?];
    for segment in file.segments() {
        let bytes = segment.data().context("a segment lies outside the file")?;
        let start = usize::try_from(segment.address() - base)?;
        let place = start.checked_add(bytes.len()).and_then(|end| image.get_mut(start..end));
        place.context("a segment lies behind __image_end")?.copy_from_slice(bytes);
    }
    if image.get(header::MAGIC_OFFSET..header::MAGIC_OFFSET + 4) != Some(&header::MAGIC) {
        bail!("it does not begin with an arm64 Image header");
    }
    Ok(image)
}

/// The value of a symbol of an ELF file.
#[must_use]
pub fn symbol(elf: &[u8], name: &str) -> Option<u64> {
    let file = object::read::elf::ElfFile64::<object::Endianness>::parse(elf).ok()?;
    file.symbols().find(|symbol| symbol.name() == Ok(name)).map(|symbol| symbol.address())
}
