//! Addresses of QEMU's machine `virt` and of the DARTs that Oche emulates there.
//! Source: QEMU 7.2 `hw/arm/virt.c`.

use oche_guest_common::fdt::Tree;

/// `VIRT_UART`, a PL011.
pub(super) const UART: u64 = 0x0900_0000;
/// `VIRT_SMMU`.
pub(super) const SMMU: u64 = 0x0905_0000;
/// DART 0's registers; the others follow.
pub(super) const DART: u64 = 0x0910_0000;
/// Bytes of a DART's registers.
pub(super) const DART_BYTES: u64 = 0x4000;
/// DARTs for which there are addresses.
pub(super) const MAX_DARTS: u64 = 64;

/// Most addresses in [`Hidden`].
const MAX_HIDDEN: usize = 4;

/// Addresses in memory that is Oche's.
#[derive(Clone, Copy)]
pub(super) struct Hidden {
    all: [u64; MAX_HIDDEN],
    count: usize,
}

impl Hidden {
    /// The last page of each gap between the ranges of memory in the device tree, and an address
    /// one MiB behind the last range.
    pub(super) fn of(tree: &Tree) -> Self {
        let mut hidden = Self { all: [0; MAX_HIDDEN], count: 0 };
        let mut last_end = 0;
        for (start, bytes) in tree.memory() {
            if last_end != 0 && last_end != start {
                hidden.push(start - 4096);
            }
            last_end = start + bytes;
        }
        hidden.push(last_end + (1 << 20));
        hidden
    }

    fn push(&mut self, address: u64) {
        if let Some(slot) = self.all.get_mut(self.count) {
            *slot = address;
            self.count += 1;
        }
    }

    /// The addresses.
    pub(super) fn iter(self) -> impl Iterator<Item = u64> + Clone {
        self.all.into_iter().take(self.count)
    }
}
