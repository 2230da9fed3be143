//! Entries of the 16K tables, in the format of each kind of IOMMU.

use crate::setup::Board;
use oche_types::addr::{HostGranule, SlotRun};
use oche_types::dart::entry::Permission;

impl Board {
    /// The leaf entry for `slots` of `frame`. The window is in units of four bytes, its end
    /// included; bit 1 turns it off. Source: U-Boot `apple_dart.c` and OpenBSD `apldart.c`; Linux
    /// always writes the whole page.
    pub fn leaf_entry(self, frame: HostGranule, permission: Permission, slots: SlotRun) -> u64 {
        match self {
            Self::Dart => {
                let no_read = u64::from(!permission.read) << 8;
                let no_write = u64::from(!permission.write) << 7;
                let start = slots.first() as u64 * 1024;
                let end = slots.last() as u64 * 1024 + 1023;
                let is_off = u64::from(slots == SlotRun::ALL) << 1;
                frame.address() | start << 52 | end << 40 | no_read | no_write | is_off | 1
            }
            // Valid page, access flag, inner shareable, unprivileged; AP[2] forbids writes. Reads
            // cannot be forbidden alone.
            Self::Smmu if permission.is_none() => 0,
            Self::Smmu => {
                frame.address()
                    | 1 << 10
                    | 0b11 << 8
                    | u64::from(!permission.write) << 7
                    | 1 << 6
                    | 0b11
            }
        }
    }

    /// The first-level entry for the leaf table in `table`.
    pub fn table_entry(self, table: HostGranule) -> u64 {
        match self {
            Self::Dart => table.address() | 0b01,
            Self::Smmu => table.address() | 0b11,
        }
    }

    pub(crate) fn decode_leaf(self, entry: u64) -> Option<(HostGranule, Permission, SlotRun)> {
        let frame = HostGranule((entry >> 14 & 0x3f_ffff) as u32);
        let (permission, slots) = match self {
            Self::Dart => {
                let (first, last) = (entry >> 62 & 3, entry >> 50 & 3);
                let permission =
                    Permission { read: entry >> 8 & 1 == 0, write: entry >> 7 & 1 == 0 };
                (permission, SlotRun::new(first as usize, last as usize)?)
            }
            Self::Smmu => (Permission { read: true, write: entry >> 7 & 1 == 0 }, SlotRun::ALL),
        };
        (self.leaf_entry(frame, permission, slots) == entry).then_some((frame, permission, slots))
    }

    pub(crate) fn decode_table(self, entry: u64) -> Option<HostGranule> {
        let frame = HostGranule((entry >> 14 & 0x3f_ffff) as u32);
        (self.table_entry(frame) == entry).then_some(frame)
    }
}
