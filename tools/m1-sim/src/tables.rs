//! The CPU's own translation tables, read from the board's memory while the machine stands still.
//!
//! An M1 takes an L2 address size fault where a block descriptor (2 MiB or 1 GiB) overlaps the
//! memory that CTRR names, which lies inside `/memory`; m1n1 maps whatever lies below itself in
//! pages, in both stages. Source: m1n1 `src/memory.c`, `mmu_map`; `src/hv_vm.c`, `hv_map`. QEMU's
//! CPUs take any block, so the board checks. The walk is not Oche's own code, so that a mistake in
//! that code cannot hide itself.

use oche_types::range::{PAGE, PhysRange};

use super::memory::BoardMemory;

/// Bits of a descriptor. Source: Arm ARM DDI 0487, "VMSAv8-64 descriptor formats", 4 KiB granule.
const VALID: u64 = 1;
const TABLE_OR_PAGE: u64 = 2;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
/// Bytes that an entry of levels 1, 2 and 3 covers.
const ENTRY_BYTES: [u64; 3] = [1 << 30, 2 << 20, PAGE];

/// What the tables map inside a region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MappedRegion {
    /// Pages of 4 KiB.
    pub(super) pages: u64,
    /// Blocks that overlap the region.
    pub(super) blocks: Vec<PhysRange>,
}

/// Walks the tables at `root`, whose first level is 1, over `region`.
pub(super) fn mapped(memory: &BoardMemory, root: u64, region: PhysRange) -> MappedRegion {
    let mut found = MappedRegion::default();
    walk(memory, root & ADDRESS, PhysRange { start: 0, end: 1 << 40 }, 0, region, &mut found);
    found
}

/// Checks the tables for what an M1 does not allow; `stage` names them. `ctrr` is memory that the
/// guest is offered: if no page of it is mapped, something other than the tables was read.
///
/// # Errors
///
/// The objection.
pub(super) fn judge(
    memory: &BoardMemory,
    stage: &str,
    root: u64,
    below_image: PhysRange,
    ctrr: PhysRange,
) -> Result<(), String> {
    let found = mapped(memory, root, below_image);
    if let Some(block) = found.blocks.first() {
        let count = found.blocks.len();
        return Err(format!(
            "{stage} maps {block} as a block, below the image ({count} such blocks)"
        ));
    }
    let pages = mapped(memory, root, ctrr).pages;
    if pages != ctrr.size() / PAGE {
        return Err(format!(
            "{stage} maps {pages} pages of the memory at {ctrr}, of which all are RAM"
        ));
    }
    Ok(())
}

fn walk(
    memory: &BoardMemory,
    table: u64,
    covers: PhysRange,
    level: usize,
    region: PhysRange,
    found: &mut MappedRegion,
) {
    let Some(bytes) = ENTRY_BYTES.get(level) else { return };
    let first = (region.start.max(covers.start) - covers.start) / bytes;
    let end = (region.end.min(covers.end) - covers.start).div_ceil(*bytes);
    for index in first..end {
        let start = covers.start + index * bytes;
        let part = PhysRange { start, end: start + bytes };
        let entry = memory.double(table + index * 8);
        match (entry & VALID != 0, entry & TABLE_OR_PAGE != 0, level) {
            (false, ..) | (true, false, 2) => {}
            (true, true, 2) => found.pages += 1,
            (true, true, _) => walk(memory, entry & ADDRESS, part, level + 1, region, found),
            (true, false, _) => found.blocks.push(part),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MappedRegion, judge, mapped};
    use crate::memory::BoardMemory;
    use oche_types::range::PhysRange;

    const ROOT: u64 = 0x4000_0000;

    /// Pages below 0x8_0080_0000, a block of 2 MiB there, and a block of 1 GiB at 0x8_4000_0000.
    fn tables() -> BoardMemory {
        let memory = BoardMemory::create().expect("a file");
        let store = |address: u64, value: u64| memory.write(address, &value.to_le_bytes());
        store(ROOT + 32 * 8, (ROOT + 0x1000) | 3);
        store(ROOT + 33 * 8, 0x8_4000_0000 | 1);
        for block in 0..4 {
            let table = ROOT + 0x2000 + block * 0x1000;
            store(ROOT + 0x1000 + block * 8, table | 3);
            (0..512).for_each(|page| {
                store(table + page * 8, (0x8_0000_0000 + (block << 21) + (page << 12)) | 3)
            });
        }
        store(ROOT + 0x1000 + 4 * 8, 0x8_0080_0000 | 1);
        memory
    }

    #[test]
    fn blocks_that_overlap_the_region_are_found_and_no_others() {
        let memory = tables();
        let range = |start, end| PhysRange { start, end };
        let found = |start, end| mapped(&memory, ROOT, range(start, end));
        assert_eq!(
            found(0x8_0000_0000, 0x8_0080_0000),
            MappedRegion { pages: 2048, blocks: vec![] }
        );
        let block = range(0x8_0080_0000, 0x8_00a0_0000);
        assert_eq!(
            found(0x8_007f_f000, 0x8_0080_1000),
            MappedRegion { pages: 1, blocks: vec![block] }
        );
        let gigabyte = range(0x8_4000_0000, 0x8_8000_0000);
        assert_eq!(
            found(0x8_7fff_f000, 0x9_0000_0000),
            MappedRegion { pages: 0, blocks: vec![gigabyte] }
        );
    }

    #[test]
    fn a_block_and_memory_that_is_not_mapped_are_refused() {
        let memory = tables();
        let range = |start, end| PhysRange { start, end };
        let judged = |end, ctrr| judge(&memory, "stage 1", ROOT, range(0x8_0000_0000, end), ctrr);
        let ctrr = range(0x8_0040_5000, 0x8_0050_0000);
        assert_eq!(judged(0x8_0080_0000, ctrr), Ok(()));
        assert!(
            judged(0x8_00a0_0000, ctrr).is_err_and(|objection| objection.contains("as a block"))
        );
        let nowhere = range(0x8_0100_0000, 0x8_0100_1000);
        assert!(
            judged(0x8_0080_0000, nowhere)
                .is_err_and(|objection| objection.contains("maps 0 pages"))
        );
    }
}
