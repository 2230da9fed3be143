//! A walk through the kernel's own page tables, for addresses that are no part of its image.
//!
//! Formats: Arm Architecture Reference Manual (DDI 0487), VMSAv8-64 translation table format
//! descriptors; which of them Linux chooses: arch/arm64/Kconfig, ARM64_VA_BITS and ARM64_LPA2.

use super::memory::{Memory, u64_at};

/// A format of page tables that an arm64 kernel can be built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Format {
    /// Bits of a page's size.
    page_bits: u32,
    /// Bits of a virtual address.
    virtual_bits: u32,
    /// Output addresses of 52 bits in the way of LPA2.
    is_lpa2: bool,
}

const fn format(page_bits: u32, virtual_bits: u32, is_lpa2: bool) -> Format {
    Format { page_bits, virtual_bits, is_lpa2 }
}

/// All of them. A kernel that was built for 52 bits runs with fewer on a machine without: that is
/// the format of fewer, or, with pages of 64 KiB, the same.
const FORMATS: [Format; 10] = [
    format(12, 48, false),
    format(12, 39, false),
    format(12, 52, true),
    format(14, 48, false),
    format(14, 47, false),
    format(14, 36, false),
    format(14, 52, true),
    format(16, 48, false),
    format(16, 42, false),
    format(16, 52, false),
];

/// Most tables that a search for an address reads.
const MAX_TABLES: usize = 1 << 14;
/// Most addresses that a search gives.
const MAX_FOUND: usize = 64;

impl Format {
    fn index_bits(self) -> u32 {
        self.page_bits - 3
    }

    /// How far an address is shifted for its index in the first table.
    fn first_shift(self) -> u32 {
        let levels = (self.virtual_bits - self.page_bits).div_ceil(self.index_bits());
        self.page_bits + (levels - 1) * self.index_bits()
    }

    /// Bytes of the first table.
    fn first_bytes(self) -> usize {
        8 << (self.virtual_bits - self.first_shift())
    }

    /// The address in a descriptor.
    fn output(self, descriptor: u64) -> u64 {
        let from = |low: u32, high: u32| descriptor & (u64::MAX >> (63 - high)) & (u64::MAX << low);
        match (self.is_lpa2, self.page_bits) {
            (true, _) => from(self.page_bits, 49) | (descriptor >> 8 & 3) << 50,
            (false, 16) => from(16, 47) | (descriptor >> 12 & 0xf) << 48,
            (false, _) => from(self.page_bits, 47),
        }
    }

    /// The bits of `address` that are translated, if the others are all ones.
    fn translated(self, address: u64) -> Option<u64> {
        (address >> self.virtual_bits == u64::MAX >> self.virtual_bits)
            .then_some(address & (u64::MAX >> (64 - self.virtual_bits)))
    }

    /// The lowest address of the half in which the kernel's image lies; below it all RAM is mapped
    /// once more (Documentation/arch/arm64/memory.rst).
    fn image_half(self) -> u64 {
        // What a kernel for 52 bits can be run with at least: VA_BITS_MIN.
        let least = self.virtual_bits.min(if self.page_bits == 14 { 47 } else { 48 });
        u64::MAX << (least - 1)
    }
}

/// What a descriptor leads to.
enum Next {
    Table(u64),
    Memory(u64),
}

fn next(format: Format, shift: u32, descriptor: u64) -> Option<Next> {
    let output = format.output(descriptor);
    match (descriptor & 3, shift == format.page_bits) {
        (3, true) => Some(Next::Memory(output)),
        (3, false) => Some(Next::Table(output)),
        (1, false) => Some(Next::Memory(output & (u64::MAX << shift))),
        _ => None,
    }
}

/// The kernel's page tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageTables {
    root: u64,
    format: Format,
}

impl PageTables {
    /// The tables at the physical address `root`, if they map each of `known`: virtual addresses,
    /// and the physical ones that they must have.
    pub(super) fn at(memory: Memory<'_>, root: u64, known: &[(u64, u64)]) -> Option<Self> {
        let all = FORMATS.iter().map(|&format| Self { root, format });
        let mut fitting = all.filter(|tables| {
            !known.is_empty()
                && known.iter().all(|(from, to)| tables.translate(memory, *from) == Some(*to))
        });
        fitting.next()
    }

    /// The tables at `root` in each format in which they map `address`, and where to.
    pub(super) fn all_at(
        memory: Memory<'_>,
        root: u64,
        address: u64,
    ) -> impl Iterator<Item = (Self, u64)> {
        let all = FORMATS.iter().map(move |&format| Self { root, format });
        all.filter_map(move |tables| Some((tables, tables.translate(memory, address)?)))
    }

    /// The physical address of `address`, if it is mapped.
    pub(super) fn translate(self, memory: Memory<'_>, address: u64) -> Option<u64> {
        let bits = self.format.translated(address)?;
        let mut shift = self.format.first_shift();
        let mut table = self.root;
        let mut mask = u64::MAX;
        loop {
            let index = (bits >> shift) & mask;
            let descriptor = memory.word(table.checked_add(index * 8)?)?;
            match next(self.format, shift, descriptor)? {
                Next::Memory(start) => return Some(start | (bits & !(u64::MAX << shift))),
                Next::Table(below) => table = below,
            }
            // The last level has no tables below.
            shift = shift.checked_sub(self.format.index_bits())?;
            mask = !(u64::MAX << self.format.index_bits());
        }
    }

    /// Where the tables at `root` map the physical address `target` in the half of the kernel's
    /// image, in whichever format, with the tables themselves.
    pub(super) fn search(memory: Memory<'_>, root: u64, target: u64) -> Vec<(Self, u64)> {
        let mut found = Vec::new();
        for format in FORMATS {
            let tables = Self { root, format };
            let mut search = Search { memory, format, target, found: Vec::new(), left: MAX_TABLES };
            let base = (u64::MAX).checked_shl(format.virtual_bits).unwrap_or(0);
            search.table(root, format.first_bytes(), format.first_shift(), base);
            found.extend(search.found.into_iter().map(|address| (tables, address)));
        }
        found
    }
}

struct Search<'a> {
    memory: Memory<'a>,
    format: Format,
    target: u64,
    found: Vec<u64>,
    /// Tables that may still be read.
    left: usize,
}

impl Search<'_> {
    /// Looks through the table of `bytes` at `table`, whose first entry is for the address `base`.
    /// The depth is that of the format: five at most.
    fn table(&mut self, table: u64, bytes: usize, shift: u32, base: u64) {
        let Some(left) = self.left.checked_sub(1) else { return };
        self.left = left;
        let Some(entries) = self.memory.bytes(table, bytes) else { return };
        for index in 0..bytes / 8 {
            let from = base | (index as u64) << shift;
            let last = from | !(u64::MAX << shift);
            if last < self.format.image_half() {
                continue;
            }
            let descriptor = u64_at(&entries, index * 8).unwrap_or(0);
            match next(self.format, shift, descriptor) {
                Some(Next::Memory(start)) if start == self.target & (u64::MAX << shift) => {
                    if self.found.len() < MAX_FOUND {
                        self.found.push(from | (self.target & !(u64::MAX << shift)));
                    }
                }
                Some(Next::Table(below)) => {
                    let bits = self.format.index_bits();
                    self.table(below, 8 << bits, shift - bits, from);
                }
                Some(Next::Memory(_)) | None => {}
            }
        }
    }
}
