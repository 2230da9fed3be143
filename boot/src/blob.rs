//! Checks an FDT blob from end to end before a parser reads it.
//!
//! Both parsers, dtoolkit and `fdt`, trust their input and panic if it is malformed. A blob that
//! passes this check does not make dtoolkit panic; [`crate::normalize`] writes it again for `fdt`.
//! Names may have any characters, and up to [`MAX_NAME_BYTES`]: real trees have property names
//! longer than the Devicetree Specification's 31 bytes (those of Apple's GPU).
//!
//! Source: Devicetree Specification 0.4, chapter 5 (flattened devicetree format).

use dtoolkit::fdt::Fdt;

/// Bytes in the header.
pub const HEADER_BYTES: usize = 40;
/// The largest blob that is read. Source: Linux `Documentation/arm64/booting.rst`, section 2: 2
/// MiB.
pub const MAX_BYTES: u64 = 2 << 20;
/// The deepest nesting that is accepted. Trees in use have less than ten levels. The parsers
/// recurse, and `fdt` keeps the path in an array of 64.
pub const MAX_LEVELS: usize = 24;
/// The longest name of a node or a property, in bytes: the parsers measure a name at each visit.
pub const MAX_NAME_BYTES: usize = 255;
const MAGIC: u32 = 0xd00d_feed;
/// The version of the format, with which later versions must declare themselves compatible.
const VERSION: u32 = 17;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// Why a blob is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The header has a wrong magic, size or version, or names a block outside the blob.
    Header,
    /// The memory reservation block is misplaced or has no end.
    Reservations,
    /// The structure block is truncated, or its tokens are not those of one tree.
    Structure,
    /// A name has no end, is not UTF-8, or is longer than [`MAX_NAME_BYTES`]; or it is empty where
    /// the node is not the root.
    Name,
    /// Nodes nest deeper than [`MAX_LEVELS`].
    Nesting,
    /// Two properties or two children of one node have the same name. Parsers differ in which of
    /// them they use.
    Duplicate,
    /// A node has more than [`crate::normalize::MAX_SIBLINGS`] properties or children.
    Siblings,
    /// The tree is larger than the buffer
    /// ([`MAX_NORMALIZED_BYTES`](crate::normalize::MAX_NORMALIZED_BYTES) at EL2).
    Size,
}

impl Refusal {
    /// The reason in words, for one line on the console.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Header => "the FDT does not parse: its header is wrong",
            Self::Reservations => "the FDT does not parse: its memory reservations are wrong",
            Self::Structure => "the FDT does not parse: its structure block is wrong",
            Self::Name => "the FDT does not parse: a name in it is wrong",
            Self::Nesting => "the FDT nests deeper than Oche follows",
            Self::Duplicate => "the FDT has two properties or nodes of one name in one node",
            Self::Siblings => "the FDT has more properties or nodes in one node than Oche reads",
            Self::Size => "the FDT is larger than Oche's buffer for it",
        }
    }
}

/// The blob's `totalsize` in bytes, if `bytes` begin with an FDT's header and the size is
/// plausible.
pub fn total_size(bytes: &[u8]) -> Option<usize> {
    if word(bytes, 0)? != MAGIC {
        return None;
    }
    let size = word(bytes, 4)?;
    (HEADER_BYTES as u64..=MAX_BYTES).contains(&u64::from(size)).then_some(size as usize)
}

/// A blob that [`check`] accepted.
#[derive(Clone, Copy, Debug)]
pub struct Checked<'a> {
    /// The blob as dtoolkit reads it.
    pub fdt: Fdt<'a>,
    /// The strings block, in which the names of properties lie.
    pub strings: &'a [u8],
    /// `boot_cpuid_phys`.
    pub boot_cpu: u32,
}

/// Checks the blob at the start of `bytes`, which may be longer. [`crate::normalize`] checks
/// siblings and the size.
///
/// # Errors
///
/// A [`Refusal`], for the first reason found.
pub fn check(bytes: &[u8]) -> Result<Checked<'_>, Refusal> {
    let blob = total_size(bytes).and_then(|size| bytes.get(..size)).ok_or(Refusal::Header)?;
    let [structure, strings, reservations, version, compatible, boot_cpu, strings_size] =
        [8, 12, 16, 20, 24, 28, 32].map(|offset| word(blob, offset).unwrap_or(0));
    if !(compatible..=version).contains(&VERSION) || !structure.is_multiple_of(4) {
        return Err(Refusal::Header);
    }
    check_reservations(blob, reservations as usize).ok_or(Refusal::Reservations)?;
    let start = strings as usize;
    let end = start.checked_add(strings_size as usize).ok_or(Refusal::Header)?;
    let strings = blob.get(start..end).ok_or(Refusal::Header)?;
    Structure { blob, strings, at: structure as usize }.check()?;
    // The checks are Oche's: dtoolkit's own would refuse the names that real trees have.
    Ok(Checked { fdt: Fdt::new_unchecked(blob), strings, boot_cpu })
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
/// the first error in the format. It is for messages about a blob that [`check`] refuses. It trusts
/// the size and the offsets of the two blocks in the header.
pub fn salvage<'a>(bytes: &'a [u8], seen: &mut dyn FnMut(BlobItem<'a>)) {
    let blob = total_size(bytes).and_then(|size| bytes.get(..size));
    // An error ends the walk.
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

/// Pairs of address and size, the last of them zero.
fn check_reservations(blob: &[u8], start: usize) -> Option<()> {
    let pairs = blob.get(start.max(HEADER_BYTES)..)?.chunks_exact(16);
    (start >= HEADER_BYTES && start.is_multiple_of(8)).then_some(())?;
    pairs.into_iter().any(|pair| pair.iter().all(|byte| *byte == 0)).then_some(())
}

/// A walk of the structure block.
struct Structure<'a> {
    blob: &'a [u8],
    strings: &'a [u8],
    at: usize,
}

impl Structure<'_> {
    /// One root without a name, in each node its properties before its children, and the end after
    /// it.
    fn check(mut self) -> Result<(), Refusal> {
        let mut levels = 0usize;
        let mut takes_properties = false;
        loop {
            match self.token().ok_or(Refusal::Structure)? {
                BEGIN_NODE => {
                    levels += 1;
                    if levels > MAX_LEVELS {
                        return Err(Refusal::Nesting);
                    }
                    self.node_name(levels == 1)?;
                    takes_properties = true;
                }
                PROPERTY if takes_properties => self.property()?,
                END_NODE => {
                    levels = levels.checked_sub(1).ok_or(Refusal::Structure)?;
                    takes_properties = false;
                    if levels == 0 {
                        let has_end = self.token() == Some(END);
                        return has_end.then_some(()).ok_or(Refusal::Structure);
                    }
                }
                // dtoolkit expects the root node at the very start.
                NOP if levels != 0 => {}
                _ => return Err(Refusal::Structure),
            }
        }
    }

    fn node_name(&mut self, is_root: bool) -> Result<(), Refusal> {
        let bytes = self.blob.get(self.at..).ok_or(Refusal::Structure)?;
        let name = name(bytes).ok_or(Refusal::Name)?;
        if is_root != name.is_empty() {
            return Err(Refusal::Name);
        }
        self.advance(name.len() + 1).ok_or(Refusal::Structure)
    }

    fn property(&mut self) -> Result<(), Refusal> {
        let header = self.token().zip(self.token());
        let (length, offset) = header.ok_or(Refusal::Structure)?;
        self.strings.get(offset as usize..).and_then(name).ok_or(Refusal::Name)?;
        let end = self.at.checked_add(length as usize).ok_or(Refusal::Structure)?;
        self.blob.get(self.at..end).ok_or(Refusal::Structure)?;
        self.advance(length as usize).ok_or(Refusal::Structure)
    }

    fn token(&mut self) -> Option<u32> {
        let token = word(self.blob, self.at)?;
        self.at += 4;
        Some(token)
    }

    /// Skips `bytes` bytes, rounded up to a multiple of four.
    fn advance(&mut self, bytes: usize) -> Option<()> {
        self.at = self.at.checked_add(bytes)?.checked_next_multiple_of(4)?;
        Some(())
    }
}

/// The name at the start of `bytes`, if it is not too long.
fn name(bytes: &[u8]) -> Option<&str> {
    text(bytes.get(..=MAX_NAME_BYTES).unwrap_or(bytes))
}

/// The text up to the first zero byte, which must exist.
fn text(bytes: &[u8]) -> Option<&str> {
    let length = bytes.iter().position(|byte| *byte == 0)?;
    str::from_utf8(bytes.get(..length)?).ok()
}

/// The big-endian word at `offset`.
fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..offset.checked_add(4)?)?.try_into().ok().map(u32::from_be_bytes)
}
