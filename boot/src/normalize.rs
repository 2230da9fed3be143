//! Writes an FDT blob again, so that the crate `fdt` reads it without a panic.
//!
//! [`normalize`] checks the blob, walks it with dtoolkit, and writes what it finds into a buffer:
//! the blocks in their order, without gaps and without NOPs, each with its size in the header, and
//! no two siblings of one name. [`crate::tree`] reads nothing else. No heap is needed, because RAM
//! is only known once the tree has been read.
//!
//! `docs/adr/0022-device-trees-are-normalized.md` lists what makes `fdt` panic.
//!
//! Source: Devicetree Specification 0.4, chapter 5 (flattened devicetree format).

use dtoolkit::fdt::FdtNode;
use dtoolkit::{Node, Property};

use crate::blob::{self, Checked, HEADER_BYTES, Refusal};

/// The largest tree that is read at EL2, in bytes without padding and NOPs. Those of M1 Macs have
/// some tens of KiB.
pub const MAX_NORMALIZED_BYTES: usize = 256 << 10;
/// The most properties and the most children of one node: each is compared with those before it.
pub const MAX_SIBLINGS: usize = 1024;

const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
const COMPATIBLE_VERSION: u32 = 16;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const END: u32 = 9;

/// A blob that [`normalize`] wrote.
#[derive(Clone, Copy, Debug)]
pub struct Normalized<'a>(&'a [u8]);

impl<'a> Normalized<'a> {
    /// The blob, exactly `totalsize` long.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }
}

/// Normalizes the blob at the start of `bytes`, which may be longer, into `buffer`.
///
/// # Errors
///
/// A [`Refusal`]; `buffer` then holds part of the tree.
pub fn normalize<'a>(bytes: &[u8], buffer: &'a mut [u8]) -> Result<Normalized<'a>, Refusal> {
    let checked = blob::check(bytes)?;
    let mut writer = Writer { buffer, at: HEADER_BYTES, strings: checked.strings };
    for reservation in checked.fdt.memory_reservations() {
        writer.put(&reservation.address().to_be_bytes())?;
        writer.put(&reservation.size().to_be_bytes())?;
    }
    writer.put(&[0; 16])?;
    let structure = writer.at;
    writer.node(&checked.fdt.root())?;
    writer.word(END)?;
    let strings = writer.at;
    // Every name that is used ends inside: `blob::check`.
    writer.put(checked.strings)?;
    writer.finish(structure, strings, &checked)
}

/// Fills the buffer from its start.
struct Writer<'a, 's> {
    buffer: &'a mut [u8],
    at: usize,
    strings: &'s [u8],
}

impl<'a> Writer<'a, '_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let end = self.at.checked_add(bytes.len()).ok_or(Refusal::Size)?;
        self.buffer.get_mut(self.at..end).ok_or(Refusal::Size)?.copy_from_slice(bytes);
        self.at = end;
        Ok(())
    }

    fn word(&mut self, word: u32) -> Result<(), Refusal> {
        self.put(&word.to_be_bytes())
    }

    /// Pads to the next multiple of four. The header and the reservations are multiples of eight,
    /// so the structure block is aligned as its offset is.
    fn align(&mut self) -> Result<(), Refusal> {
        let padding = self.at.next_multiple_of(4) - self.at;
        self.put(&[0; 3][..padding])
    }

    /// Recurses over the children. `blob::check` has bounded the depth.
    fn node(&mut self, node: &FdtNode<'_>) -> Result<(), Refusal> {
        self.word(BEGIN_NODE)?;
        self.put(node.name().as_bytes())?;
        self.put(&[0])?;
        self.align()?;
        for (index, property) in node.properties().enumerate() {
            let mut before = node.properties().take(index);
            check_sibling(index, before.any(|other| other.name() == property.name()))?;
            self.property(property.name(), property.value())?;
        }
        for (index, child) in node.children().enumerate() {
            let mut before = node.children().take(index);
            check_sibling(index, before.any(|other| other.name() == child.name()))?;
            self.node(&child)?;
        }
        self.word(END_NODE)
    }

    fn property(&mut self, name: &str, value: &[u8]) -> Result<(), Refusal> {
        // dtoolkit gives the name as part of the strings block, which is copied as it is.
        let offset = name.as_ptr().addr().checked_sub(self.strings.as_ptr().addr());
        let offset = offset.expect("invariant: a property's name lies in the strings block");
        self.word(PROPERTY)?;
        self.word(as_word(value.len())?)?;
        self.word(as_word(offset)?)?;
        self.put(value)?;
        self.align()
    }

    /// Writes the header: the structure block begins at `structure`, the strings at `strings`.
    fn finish(
        self,
        structure: usize,
        strings: usize,
        checked: &Checked<'_>,
    ) -> Result<Normalized<'a>, Refusal> {
        let Self { buffer, at, .. } = self;
        let header = [
            MAGIC,
            as_word(at)?,
            as_word(structure)?,
            as_word(strings)?,
            HEADER_BYTES as u32,
            VERSION,
            COMPATIBLE_VERSION,
            checked.boot_cpu,
            as_word(at - strings)?,
            as_word(strings - structure)?,
        ];
        let blob = buffer.get_mut(..at).ok_or(Refusal::Size)?;
        for (bytes, word) in blob.chunks_exact_mut(4).zip(header) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        Ok(Normalized(blob))
    }
}

/// Refuses a sibling that exceeds the limit or has the name of an earlier one.
fn check_sibling(index: usize, is_duplicate: bool) -> Result<(), Refusal> {
    if index >= MAX_SIBLINGS {
        return Err(Refusal::Siblings);
    }
    if is_duplicate { Err(Refusal::Duplicate) } else { Ok(()) }
}

fn as_word(number: usize) -> Result<u32, Refusal> {
    u32::try_from(number).map_err(|_| Refusal::Size)
}
