//! An FDT blob, checked from end to end before anybody reads it.
//!
//! The reader behind it trusts what it reads and panics where it is wrong; what passes here holds
//! no surprise for it. Names are free: real trees have property names longer than the Devicetree
//! Specification's 31 bytes (those of Apple's GPU), and an editor that refused them would keep a
//! Mac from booting.
//!
//! Source: Devicetree Specification 0.4, chapter 5 (flattened devicetree format).

use dtoolkit::fdt::Fdt;

/// Bytes in the header.
pub const HEADER_BYTES: usize = 40;
/// The largest blob that is read. Source: Linux `Documentation/arm64/booting.rst`, section 2: 2
/// MiB.
pub const MAX_BYTES: u64 = 2 << 20;
/// The deepest nesting that is followed. Trees in use have less than ten levels; editors recurse.
pub const MAX_LEVELS: usize = 24;
const MAGIC: u32 = 0xd00d_feed;
/// The one version of the format, and what later ones declare themselves compatible with.
const VERSION: u32 = 17;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// The blob breaks the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// The blob's `totalsize` in bytes, if `bytes` begin with an FDT's header and the size is
/// believable.
pub fn total_size(bytes: &[u8]) -> Option<usize> {
    if word(bytes, 0)? != MAGIC {
        return None;
    }
    let size = word(bytes, 4)?;
    (HEADER_BYTES as u64..=MAX_BYTES).contains(&u64::from(size)).then_some(size as usize)
}

/// Checks the blob at the start of `bytes`, which may go on behind it.
///
/// # Errors
///
/// [`Damaged`], if any of it is.
pub fn check(bytes: &[u8]) -> Result<Fdt<'_>, Damaged> {
    let blob = total_size(bytes).and_then(|size| bytes.get(..size)).ok_or(Damaged)?;
    is_sound(blob).ok_or(Damaged)?;
    Ok(Fdt::new_unchecked(blob))
}

/// An item that a walk of a blob finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobItem<'a> {
    /// A node with this name begins.
    Begin(&'a str),
    /// A property of the node that began last: name and value.
    Property(&'a str, &'a [u8]),
    /// The innermost node that has begun ends.
    End,
}

/// Calls `seen` with each item of the blob at the start of `bytes`, in order, up to its end or to
/// the first thing that is not as the format has it: for a message about a blob that [`check`]
/// refuses. Of the header it believes the size and where the two blocks begin.
pub fn salvage<'a>(bytes: &'a [u8], seen: &mut dyn FnMut(BlobItem<'a>)) {
    let blob = total_size(bytes).and_then(|size| bytes.get(..size));
    // Where it ends is where the rest cannot be read.
    let _: Option<()> = blob.and_then(|blob| read_on(blob, seen));
}

/// Each token takes four bytes at least, so it ends.
fn read_on<'a>(blob: &'a [u8], seen: &mut dyn FnMut(BlobItem<'a>)) -> Option<()> {
    let strings = blob.get(word(blob, 12)? as usize..)?;
    let mut structure = Structure { blob, strings, at: word(blob, 8)? as usize };
    loop {
        match structure.token()? {
            BEGIN_NODE => {
                let name = text(blob.get(structure.at..)?)?;
                structure.advance(name.len() + 1)?;
                seen(BlobItem::Begin(name));
            }
            PROPERTY => {
                let (length, name) = (structure.token()? as usize, structure.token()?);
                let name = text(strings.get(name as usize..)?)?;
                let value = blob.get(structure.at..structure.at.checked_add(length)?)?;
                structure.advance(length)?;
                seen(BlobItem::Property(name, value));
            }
            END_NODE => seen(BlobItem::End),
            NOP => {}
            _ => return None,
        }
    }
}

fn is_sound(blob: &[u8]) -> Option<()> {
    let [structure, strings, reservations, version, compatible, _, strings_size] =
        [8, 12, 16, 20, 24, 28, 32].map(|offset| word(blob, offset).unwrap_or(0));
    if !(compatible..=version).contains(&VERSION) || !structure.is_multiple_of(4) {
        return None;
    }
    check_reservations(blob, reservations as usize)?;
    let start = strings as usize;
    let strings = blob.get(start..start.checked_add(strings_size as usize)?)?;
    Structure { blob, strings, at: structure as usize }.check()
}

/// Pairs of address and size, the last of them zero.
fn check_reservations(blob: &[u8], start: usize) -> Option<()> {
    let pairs = blob.get(start.max(HEADER_BYTES)..)?.chunks_exact(16);
    (start >= HEADER_BYTES && start.is_multiple_of(8)).then_some(())?;
    pairs.into_iter().any(|pair| pair.iter().all(|byte| *byte == 0)).then_some(())
}

/// The structure block, while it is walked.
struct Structure<'a> {
    blob: &'a [u8],
    strings: &'a [u8],
    at: usize,
}

impl Structure<'_> {
    /// One root without a name, in each node its properties before its children, and the end after
    /// it.
    fn check(mut self) -> Option<()> {
        let mut levels = 0usize;
        let mut takes_properties = false;
        loop {
            match self.token()? {
                BEGIN_NODE => {
                    let name = text(self.blob.get(self.at..)?)?;
                    self.advance(name.len() + 1)?;
                    levels += 1;
                    if levels > MAX_LEVELS || (levels == 1) != name.is_empty() {
                        return None;
                    }
                    takes_properties = true;
                }
                PROPERTY if takes_properties => {
                    let (length, name) = (self.token()?, self.token()?);
                    text(self.strings.get(name as usize..)?)?;
                    self.blob.get(self.at..self.at.checked_add(length as usize)?)?;
                    self.advance(length as usize)?;
                }
                END_NODE => {
                    levels = levels.checked_sub(1)?;
                    takes_properties = false;
                    if levels == 0 {
                        return (self.token()? == END).then_some(());
                    }
                }
                // The reader expects the root node at the very start.
                NOP if levels != 0 => {}
                _ => return None,
            }
        }
    }

    fn token(&mut self) -> Option<u32> {
        let token = word(self.blob, self.at)?;
        self.at += 4;
        Some(token)
    }

    /// Goes on to the next multiple of four behind `bytes` bytes.
    fn advance(&mut self, bytes: usize) -> Option<()> {
        self.at = self.at.checked_add(bytes)?.checked_next_multiple_of(4)?;
        Some(())
    }
}

/// The text up to the first zero, which there must be.
fn text(bytes: &[u8]) -> Option<&str> {
    let length = bytes.iter().position(|byte| *byte == 0)?;
    str::from_utf8(bytes.get(..length)?).ok()
}

/// The big-endian word at `offset`.
fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..offset.checked_add(4)?)?.try_into().ok().map(u32::from_be_bytes)
}
