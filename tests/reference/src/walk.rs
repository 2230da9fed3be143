//! The two-level walk of the tables of a DART with 4 KiB pages, and the bits of the entries.

use super::memory::{GuestMemory, Page};

/// Bit 0 of every entry. Source: Linux `io-pgtable-dart.c`, `APPLE_DART_PTE_VALID`.
pub const VALID: u64 = 1 << 0;
/// Bit 1 of a leaf: the sub-page window is off. Source: Linux, `APPLE_DART1_PTE_PROT_SP_DIS`.
pub const WINDOW_OFF: u64 = 1 << 1;
/// Bit 7 of a leaf. Source: Linux, `APPLE_DART1_PTE_PROT_NO_WRITE`.
pub const NO_WRITE: u64 = 1 << 7;
/// Bit 8 of a leaf. Source: Linux, `APPLE_DART1_PTE_PROT_NO_READ`.
pub const NO_READ: u64 = 1 << 8;
/// Bits 35:12 of an entry are those of the address. Source: Linux, `APPLE_DART1_PADDR_MASK`.
pub const ADDRESS: u64 = 0x0000_000f_ffff_f000;

/// `ERROR` code bits. Source: Linux `apple-dart.c`, `DART_ERROR_CODE`; m1n1 `dart8020.py`,
/// `R_ERROR`.
pub mod code {
    /// No TTBR.
    pub const NO_TTBR: u16 = 1 << 0;
    /// No first-level entry.
    pub const NO_L1: u16 = 1 << 1;
    /// No leaf entry.
    pub const NO_LEAF: u16 = 1 << 2;
    /// Write to a page that forbids it.
    pub const WRITE: u16 = 1 << 3;
    /// Read of a page that forbids it.
    pub const READ: u16 = 1 << 4;
}

/// A valid leaf entry, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The page named.
    pub page: Page,
    /// Whether devices may read.
    pub read: bool,
    /// Whether devices may write.
    pub write: bool,
    /// Whether the window covers less than the page: what a 4K DART does then is not documented.
    pub is_narrowed: bool,
}

/// The three indices in an IOVA: of the TTBR, the first-level entry and the leaf.
///
/// With 4K pages and 32-bit IOVAs: bits 31:30, 29:21 and 20:12. Source: Linux `io-pgtable-dart.c`,
/// the computation of `tbl_bits` and `bits_per_level` for a 4K granule and `ias` 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selectors {
    /// Which TTBR, below 4.
    pub root: usize,
    /// Which first-level entry, below 512.
    pub table: usize,
    /// Which leaf, below 512.
    pub leaf: usize,
}

/// The three selectors of the page with number `iova_page` (below 2^20).
pub fn selectors(iova_page: u32) -> Selectors {
    Selectors {
        root: (iova_page >> 18 & 3) as usize,
        table: (iova_page >> 9 & 511) as usize,
        leaf: (iova_page & 511) as usize,
    }
}

/// The page that a TTBR names: bit 31 is valid, 30:0 the address divided by 4096.
///
/// Source: Linux `apple-dart.c`, `DART_TTBR_VALID` and `DART_TTBR_SHIFT`.
pub fn decode_root(ttbr: u32) -> Option<Page> {
    if ttbr >> 31 == 0 { None } else { Some(Page(ttbr & 0x7fff_ffff)) }
}

/// The page that a first-level entry names.
pub fn decode_table(entry: u64) -> Option<Page> {
    if entry & VALID == 0 { None } else { Some(Page(((entry & ADDRESS) >> 12) as u32)) }
}

/// The leaf that `entry` is, if it is valid.
pub fn decode_leaf(entry: u64) -> Option<Leaf> {
    if entry & VALID == 0 {
        return None;
    }
    let is_whole = entry & WINDOW_OFF != 0 || (entry >> 52 == 0 && entry >> 40 & 0xfff == 0xfff);
    Some(Leaf {
        page: Page(((entry & ADDRESS) >> 12) as u32),
        read: entry & NO_READ == 0,
        write: entry & NO_WRITE == 0,
        is_narrowed: !is_whole,
    })
}

/// The leaf entry for `page`, as Linux writes it: window off, from 0 to its end.
pub fn encode_leaf(page: Page, read: bool, write: bool) -> u64 {
    let mut entry = page.address() & ADDRESS | 0xfff << 40 | WINDOW_OFF | VALID;
    if !read {
        entry |= NO_READ;
    }
    if !write {
        entry |= NO_WRITE;
    }
    entry
}

/// The first-level entry for the leaf table in `table`, as Linux writes it.
pub fn encode_table(table: Page) -> u64 {
    table.address() & ADDRESS | VALID
}

/// The guest page that an access of `iova_page` reaches through the tables of `ttbrs`, or the
/// `ERROR` code.
pub fn walk(
    memory: &GuestMemory,
    ttbrs: [u32; 4],
    iova_page: u32,
    is_write: bool,
) -> Result<Page, u16> {
    let at = selectors(iova_page);
    let root = decode_root(ttbrs[at.root]).ok_or(code::NO_TTBR)?;
    let entry = memory.word(root, at.table).ok_or(code::NO_L1)?;
    let table = decode_table(entry).ok_or(code::NO_L1)?;
    let entry = memory.word(table, at.leaf).ok_or(code::NO_LEAF)?;
    let leaf = decode_leaf(entry).ok_or(code::NO_LEAF)?;
    match is_write {
        true if !leaf.write => Err(code::WRITE),
        false if !leaf.read => Err(code::READ),
        _ => Ok(leaf.page),
    }
}
