//! The DART whose registers an address is in. Each access of the guest to a DART asks for it.

use alloc::vec::Vec;

use oche_types::dart::registers::REGION_BYTES;
use oche_types::dart::stream::DartId;

use crate::device_tree::{DartNode, candidates};

/// The registers of all DARTs that Oche may emulate.
pub struct DartWindows {
    /// The first addresses, ascending.
    starts: Vec<(u64, DartId)>,
}

impl DartWindows {
    /// Those of the DARTs in `all`.
    pub fn of(all: &[DartNode]) -> Self {
        let mut starts: Vec<_> =
            candidates(all).map(|(dart, node)| (node.registers.start, dart)).collect();
        starts.sort_unstable();
        Self { starts }
    }

    /// The DART whose registers are at `address`, and the offset in them, in bytes.
    #[inline]
    pub fn dart_at(&self, address: u64) -> Option<(DartId, u64)> {
        let behind = self.starts.partition_point(|(start, _)| *start <= address);
        let (start, dart) = self.starts.get(behind.checked_sub(1)?)?;
        let offset = address - start;
        (offset < REGION_BYTES).then_some((*dart, offset))
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use oche_types::dart::stream::DartId;

    use super::{DartWindows, REGION_BYTES};

    #[test]
    fn each_address_belongs_to_the_dart_whose_registers_are_there() {
        let dart = |index| DartId::new(index).expect("a test names few DARTs");
        let starts = vec![(0x2_3130_4000, dart(1)), (0x2_3130_c000, dart(2)), (1 << 35, dart(0))];
        let windows = DartWindows { starts: starts.clone() };
        for (start, dart) in starts {
            for offset in [0, 0x34, REGION_BYTES - 4] {
                assert_eq!(windows.dart_at(start + offset), Some((dart, offset)));
            }
            assert_eq!(windows.dart_at(start - 1), None);
            assert_eq!(windows.dart_at(start + REGION_BYTES), None);
        }
        assert_eq!(windows.dart_at(0), None);
        assert_eq!(DartWindows { starts: vec![] }.dart_at(0), None);
    }
}
