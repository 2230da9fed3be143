//! A search for block descriptors in translation tables, in memory where none may be.
//!
//! An M1 takes an L2 address size fault where a block overlaps the memory that CTRR names, in the
//! tables of either stage; that memory lies somewhere below whatever was loaded last. Source: m1n1
//! `src/memory.c`, `mmu_map`, and `src/hv_vm.c`, `hv_map`, which map all of it in pages.

use oche_types::range::PhysRange;

const VALID: u64 = 1;
const TABLE_OR_PAGE: u64 = 2;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
/// The level whose entries are pages.
const LAST_LEVEL: u32 = 3;

/// The first block that overlaps `region`, in tables of either stage with a 4 KiB granule whose
/// first level is 1. `load` gives entry `index` of the table at an address. Source: Arm ARM DDI
/// 0487, "VMSAv8-64 descriptor formats".
pub fn first_block(
    load: &dyn Fn(u64, usize) -> u64,
    root: u64,
    region: PhysRange,
) -> Option<PhysRange> {
    first_below(load, root, 0, 1, region)
}

/// As [`first_block`], in the table at `table`, which translates from `base` on at `level`. At most
/// three levels deep.
fn first_below(
    load: &dyn Fn(u64, usize) -> u64,
    table: u64,
    base: u64,
    level: u32,
    region: PhysRange,
) -> Option<PhysRange> {
    let bytes = 1u64 << (39 - 9 * level);
    // The root may be longer than 512 entries (concatenated tables); what is below it is not.
    let end = if level == 1 { region.end } else { region.end.min(base + 512 * bytes) };
    let mut at = base + (region.start.max(base) - base) / bytes * bytes;
    while at < end {
        let entry = load(table, ((at - base) / bytes) as usize);
        let found = match (entry & VALID != 0, entry & TABLE_OR_PAGE != 0) {
            (true, false) => Some(PhysRange { start: at, end: at + bytes }),
            (true, true) if level + 1 < LAST_LEVEL => {
                first_below(load, entry & ADDRESS, at, level + 1, region)
            }
            _ => None,
        };
        if found.is_some() {
            return found;
        }
        at += bytes;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const ROOT: u64 = 0x10_0000;

    /// Level 1: entry 1 leads to level 2, entry 2 is a block, entry 600 too. Level 2: entry 0 leads
    /// to pages, entry 3 is a block.
    fn search(region: PhysRange) -> Option<PhysRange> {
        let (second, third) = (0x20_0000, 0x30_0000);
        let entries = HashMap::from([
            ((ROOT, 1), second | 3),
            ((ROOT, 2), 0x8000_0000 | 1),
            ((ROOT, 600), 600 << 30 | 1),
            ((second, 0), third | 3),
            ((second, 3), 0x4060_0000 | 1),
            ((third, 0), 0x4000_0003),
        ]);
        first_block(
            &|table, index| entries.get(&(table, index)).copied().unwrap_or(0),
            ROOT,
            region,
        )
    }

    #[test]
    fn a_block_is_found_where_it_overlaps_and_nowhere_else() {
        let range = |start, end| PhysRange { start, end };
        assert_eq!(search(range(0, 0x4060_0000)), None, "pages are no blocks");
        assert_eq!(search(range(0, 0x4060_0001)), Some(range(0x4060_0000, 0x4080_0000)));
        assert_eq!(search(range(0x407f_ffff, 0x4080_0000)), Some(range(0x4060_0000, 0x4080_0000)));
        assert_eq!(search(range(0x4080_0000, 0x8000_0000)), None);
        assert_eq!(search(range(0x4080_0000, 0x8000_0001)), Some(range(0x8000_0000, 0xc000_0000)));
        assert_eq!(search(range(0xc000_0000, 600 << 30)), None);
        assert_eq!(search(range(601 << 30, u64::MAX >> 24)), None);
        let last = range(600 << 30, 601 << 30);
        assert_eq!(
            search(range((600 << 30) + 0x1234, 601 << 30)),
            Some(last),
            "in a concatenated root"
        );
        assert_eq!(search(range(0x4060_0000, 0x4060_0000)), None, "an empty region");
    }
}
