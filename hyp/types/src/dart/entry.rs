//! The guest's table entries: t8020 format ("DART1"), 4 KiB pages, two levels of 512 entries.
//!
//! Geometry with 4K pages and 32-bit IOVAs: bits 31:30 select the TTBR, 29:21 the first-level
//! entry, 20:12 the leaf. Source: Linux 6.1 `drivers/iommu/io-pgtable-dart.c`.

use crate::addr::Gfn;

/// Entries in a first-level or leaf table of a DART with 4 KiB pages.
pub const ENTRIES: usize = 512;

/// The entry counts. This bit and those below it are the same with 16 KiB pages.
pub const VALID: u64 = 1 << 0;
/// If set, the sub-page window is not checked.
pub const WINDOW_OFF: u64 = 1 << 1;
/// If set, devices cannot write.
pub const NO_WRITE: u64 = 1 << 7;
/// If set, devices cannot read.
pub const NO_READ: u64 = 1 << 8;
/// The first bit of the window's first unit, which is inclusive.
pub const WINDOW_START_SHIFT: u32 = 52;
/// The first bit of the window's last unit, which is inclusive.
pub const WINDOW_END_SHIFT: u32 = 40;
/// Bits 35:12 of the physical address, in place.
const ADDRESS: u64 = 0xf_ffff_f000;
const WINDOW_MASK: u64 = 0xfff;

/// What a device may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Permission {
    /// The device may read.
    pub read: bool,
    /// The device may write.
    pub write: bool,
}

impl Permission {
    /// Reads and writes, as for coherent memory.
    pub const READ_WRITE: Self = Self { read: true, write: true };
    /// Device reads only: the guest's `DMA_TO_DEVICE`.
    pub const READ_ONLY: Self = Self { read: true, write: false };
    /// Device writes only: the guest's `DMA_FROM_DEVICE`.
    pub const WRITE_ONLY: Self = Self { read: false, write: true };

    /// What either of the two allows.
    pub fn union(self, other: Self) -> Self {
        Self { read: self.read || other.read, write: self.write || other.write }
    }

    /// The word for it in every output.
    pub fn name(self) -> &'static str {
        match (self.read, self.write) {
            (true, true) => "rw",
            (true, false) => "r-",
            (false, true) => "-w",
            (false, false) => "--",
        }
    }

    /// Whether nothing is allowed.
    pub fn is_none(self) -> bool {
        !self.read && !self.write
    }
}

/// A valid leaf entry, independent of the format of its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The page that it maps.
    pub page: Gfn,
    /// What the stream may do with it.
    pub permission: Permission,
    /// Whether the entry maps the whole page, and not a part of it by a sub-page window.
    pub whole_page: bool,
}

/// Decodes a leaf entry. Returns `None` if its valid bit is clear. Accepts any bits.
pub fn decode_leaf(entry: u64) -> Option<Leaf> {
    if entry & VALID == 0 {
        return None;
    }
    let start = entry >> WINDOW_START_SHIFT & WINDOW_MASK;
    let end = entry >> WINDOW_END_SHIFT & WINDOW_MASK;
    Some(Leaf {
        page: Gfn(((entry & ADDRESS) >> 12) as u32),
        permission: Permission { read: entry & NO_READ == 0, write: entry & NO_WRITE == 0 },
        whole_page: entry & WINDOW_OFF != 0 || (start == 0 && end == WINDOW_MASK),
    })
}

/// Encodes a leaf entry as Linux writes it: with the window off, and covering the whole page.
pub fn encode_leaf(page: Gfn, permission: Permission) -> u64 {
    let no_read = if permission.read { 0 } else { NO_READ };
    let no_write = if permission.write { 0 } else { NO_WRITE };
    page.address() & ADDRESS
        | WINDOW_MASK << WINDOW_END_SHIFT
        | no_read
        | no_write
        | WINDOW_OFF
        | VALID
}

/// Decodes a first-level entry. Returns the page of its leaf table, or `None` if its valid bit is
/// clear.
///
/// U-Boot (`drivers/iommu/apple_dart.c`) and OpenBSD (`sys/arch/arm64/dev/apldart.c`) set bit 1 as
/// well, which has no meaning here.
pub fn decode_table(entry: u64) -> Option<Gfn> {
    if entry & VALID == 0 { None } else { Some(Gfn(((entry & ADDRESS) >> 12) as u32)) }
}

/// Encodes the first-level entry for the leaf table at `table`.
pub fn encode_table(table: Gfn) -> u64 {
    table.address() & ADDRESS | VALID
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_survives_encoding_and_decoding_with_every_permission() {
        for bits in 0..4 {
            let permission = Permission { read: bits & 1 != 0, write: bits & 2 != 0 };
            for page in [Gfn(0), Gfn(1), Gfn(0x80_1234), Gfn(0xff_ffff)] {
                let leaf = decode_leaf(encode_leaf(page, permission));
                assert_eq!(leaf, Some(Leaf { page, permission, whole_page: true }));
            }
        }
    }

    #[test]
    fn the_entry_that_linux_writes_for_a_device_read_is_read_only() {
        let entry = 0x000f_ff08_4567_8083;
        let leaf = decode_leaf(entry);
        assert_eq!(
            leaf,
            Some(Leaf {
                page: Gfn(0x84_5678),
                permission: Permission::READ_ONLY,
                whole_page: true
            })
        );
    }

    #[test]
    fn a_window_counts_only_while_bit_1_is_clear() {
        let narrow = 0x010 << 52 | 0x0ff << 40 | 0x1000 | VALID;
        assert!(!decode_leaf(narrow).is_some_and(|leaf| leaf.whole_page));
        assert!(decode_leaf(narrow | WINDOW_OFF).is_some_and(|leaf| leaf.whole_page));
    }

    #[test]
    fn without_the_valid_bit_nothing_is_named() {
        assert_eq!(decode_leaf(!VALID), None);
        assert_eq!(decode_table(!VALID), None);
    }
}
