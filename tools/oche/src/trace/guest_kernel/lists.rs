//! The kernel's virtual memory, and the lists in it.

use super::image::Image;
use super::memory::Memory;
use super::walk::PageTables;

/// Bytes that are read with one walk: no page is smaller.
const PAGE: u64 = 4096;
/// How often a list is read that changed meanwhile.
const TRIES: usize = 8;

/// Memory by the kernel's own page tables.
#[derive(Clone, Copy)]
pub(super) struct Virtual<'a> {
    memory: Memory<'a>,
    pages: PageTables,
}

impl<'a> Virtual<'a> {
    /// The memory of `image`; none: its page tables have no name.
    pub(super) fn new(memory: Memory<'a>, image: &Image) -> Option<Self> {
        Some(Self { memory, pages: image.pages? })
    }

    /// The `length` bytes at `address`, which the caller has bounded.
    pub(super) fn bytes(self, address: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut rest = &mut *bytes;
        let mut at = address;
        while !rest.is_empty() {
            let in_page = (PAGE - at % PAGE) as usize;
            let (piece, after) = rest.split_at_mut(in_page.min(rest.len()));
            let physical = self.pages.translate(self.memory, at)?;
            self.memory.0.read(physical, piece).then_some(())?;
            at = at.checked_add(piece.len() as u64)?;
            rest = after;
        }
        Some(bytes)
    }

    /// The bytes at `address`, at most `length`, up to where nothing is mapped.
    pub(super) fn bytes_up_to(self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let at = address.wrapping_add(bytes.len() as u64);
            let in_page = (PAGE - at % PAGE) as usize;
            let Some(piece) = self.bytes(at, in_page.min(length - bytes.len())) else { break };
            bytes.extend(piece);
        }
        bytes
    }

    pub(super) fn word(self, address: u64) -> Option<u64> {
        let bytes = self.bytes(address, 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    /// The text at `address`, of fewer than `length` bytes and one word.
    pub(super) fn text(self, address: u64, length: usize) -> Option<String> {
        word_at(&self.bytes_up_to(address, length), 0)
    }

    /// The entries of the list whose head is at `head`, at most `most`.
    ///
    /// # Errors
    ///
    /// It changed meanwhile, or is none: it does not lead forth and back the same way to its head.
    pub(super) fn list(self, head: u64, most: usize) -> Result<Vec<u64>, String> {
        // A guest that runs may change a list at any moment; it does not do so all the time.
        let mut last = self.walk(head, most);
        for _ in 1..TRIES {
            if last.is_ok() {
                break;
            }
            last = self.walk(head, most);
        }
        last
    }

    fn walk(self, head: u64, most: usize) -> Result<Vec<u64>, String> {
        let changed = || "the list of them is damaged, or changed as it was read".to_owned();
        let mut entries = Vec::new();
        let mut last = head;
        loop {
            let next = self.word(last).ok_or_else(changed)?;
            let back = next.checked_add(8).and_then(|at| self.word(at)).ok_or_else(changed)?;
            if back != last || entries.len() >= most {
                return Err(changed());
            }
            if next == head {
                return Ok(entries);
            }
            entries.push(next);
            last = next;
        }
    }
}

/// The text that begins at `at` of `bytes` and ends with a zero: one word of printable ASCII.
pub(super) fn word_at(bytes: &[u8], at: usize) -> Option<String> {
    let rest = bytes.get(at..)?;
    let text = rest.get(..rest.iter().position(|byte| *byte == 0)?)?;
    let is_word = !text.is_empty() && text.iter().all(u8::is_ascii_graphic);
    is_word.then(|| String::from_utf8(text.to_vec()).ok())?
}
