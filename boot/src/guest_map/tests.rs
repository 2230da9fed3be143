//! Random shapes of memory: where everything goes, and what stage 2 then maps.

use std::cell::RefCell;
use std::collections::HashMap;

use super::*;
use oche_el2::stage2::hardware::{Barrier, Translations};
use oche_types::range::{BLOCK, align_up};

use crate::blocks::first_block;
use crate::header::Kernel;
use crate::layout::{LayoutError, LayoutRequest, MemoryLayout};

const MIB: u64 = 1 << 20;
const DRAM: u64 = 0x8_0000_0000;
const IPA_BITS: u32 = 36;
/// Shapes that are tried.
const SHAPES: u64 = 60;

/// Table memory alone.
#[derive(Default, Debug)]
struct Words(RefCell<HashMap<u64, u64>>);

#[expect(unsafe_code, reason = "a model of the machine")]
// SAFETY: no CPU uses its tables.
unsafe impl Hardware for &Words {
    fn load(&self, table: u64, index: usize) -> u64 {
        self.0.borrow().get(&(table + index as u64 * 8)).copied().unwrap_or(0)
    }
    fn store(&self, table: u64, index: usize, value: u64) {
        self.0.borrow_mut().insert(table + index as u64 * 8, value);
    }
    fn exchange(&self, _: u64, _: usize, _: u64, _: u64) -> bool {
        unreachable!("the guest does not run")
    }
    fn barrier(&self, _: Barrier) {}
    fn invalidate(&self, _: Translations) {
        unreachable!("the guest does not run")
    }
    fn select_tables(&self, _: u64) {}
    fn data_line_bytes(&self) -> u64 {
        64
    }
    fn clean_line(&self, _: u64) {}
    fn drop_instructions(&self) {}
}

/// SplitMix64. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A multiple of one of the sizes that borders have, below `limit`.
    fn border(&mut self, limit: u64) -> u64 {
        let step = [PAGE, 4 * PAGE, BLOCK][self.below(3) as usize];
        self.below(limit) / step * step
    }
}

/// A machine's memory, and what is in it before the guest.
#[derive(Debug)]
struct Shape {
    ram: RangeList,
    firmware: RangeList,
    image: PhysRange,
    sources: [PhysRange; 2],
    initrd: Option<PhysRange>,
    keeps_image: bool,
    around_ram: PhysRange,
}

impl Shape {
    /// One to four banks in 2 GiB; the image in one of them, its payload behind it, the FDT and
    /// some reservations anywhere.
    fn new(random: &mut Random) -> Self {
        let mut ram = RangeList::new();
        let mut at = DRAM + random.border(32 * MIB);
        for _ in 0..1 + random.below(4) {
            let size = 96 * MIB + random.border(400 * MIB);
            ram.push(PhysRange { start: at, end: at + size }).expect("room");
            at += size + random.below(2) * random.border(64 * MIB);
        }
        let banks = ram.as_slice();
        let home = banks[random.below(banks.len() as u64) as usize];
        let first = align_up(home.start, BLOCK);
        let start = first + random.below(32.min((home.end - first) / BLOCK - 16)) * BLOCK;
        let image = PhysRange { start, end: start + 2 * MIB + random.below(16) * PAGE };
        let payload = PhysRange { start: image.end, end: image.end + random.below(16 * MIB) };
        let mut anywhere = |bytes: u64| {
            let bank = banks[random.below(banks.len() as u64) as usize];
            let start = bank.start + random.below(bank.size() - bytes);
            PhysRange { start, end: start + bytes }
        };
        let blob = anywhere(0x1_2345);
        let initrd = Some(anywhere(7 * MIB + 0x123));
        let mut firmware = RangeList::new();
        for _ in 0..24 {
            firmware.push(anywhere(0x5_5123)).expect("room");
        }
        let initrd = initrd.filter(|_| random.below(2) == 0);
        let sources = [blob, payload];
        let around_ram = PhysRange { start: DRAM, end: align_up(at, 1 << 30) };
        Self {
            ram,
            firmware,
            image,
            sources,
            initrd,
            keeps_image: random.below(2) == 0,
            around_ram,
        }
    }

    fn by_page(&self) -> PhysRange {
        PhysRange { start: DRAM, end: align_up(self.image.start, BLOCK) }
    }

    fn plan(&self) -> Result<MemoryLayout, LayoutError> {
        MemoryLayout::plan(&LayoutRequest {
            ram: &self.ram,
            firmware: &self.firmware,
            image: self.image,
            sources: &self.sources,
            initrd: self.initrd,
            kernel: Kernel { text_offset: 0, image_size: 9 * MIB },
            pool_bytes: Some(32 * MIB),
            trace_bytes: 3 * MIB,
            engine_bytes: |_, _| 3 * MIB,
            around_ram: self.around_ram,
            by_page: self.by_page(),
            keeps_image: self.keeps_image,
            address_limit: 1 << 39,
        })
    }
}

/// Checks what has what.
fn check_plan(shape: &Shape, layout: &MemoryLayout) {
    let parts =
        [layout.trace, layout.heap, layout.tables, layout.own_tables, layout.release, layout.pool];
    assert!(parts.is_sorted_by_key(|part| part.start), "{parts:?}");
    for (index, part) in parts.iter().enumerate() {
        assert!(layout.reserved.covers(part) && part.start.is_multiple_of(PAGE), "{part}");
        assert!(parts.iter().skip(index + 1).all(|other| !part.overlaps(other)), "{part}");
    }
    assert!(layout.trace.start.is_multiple_of(BLOCK) && layout.pool.start.is_multiple_of(BLOCK));
    let own = [layout.reserved, layout.image.grown_to(PAGE)];
    for range in own.iter().chain([&layout.kernel]) {
        assert!(shape.ram.covers(range), "{range} is not RAM");
        let firmware = shape.firmware.as_slice().iter();
        let others = firmware.chain(&shape.sources).chain(shape.initrd.as_ref());
        // Firmware may well have reserved the image.
        let taken = others.filter(|_| *range != own[1]).find(|other| other.overlaps(range));
        assert_eq!(taken, None, "{range} is taken");
    }
    for range in layout.guest.as_slice() {
        assert!(shape.ram.covers(range) && own.iter().all(|own| !own.overlaps(range)), "{range}");
    }
    let bytes: u64 = own.iter().map(PhysRange::size).sum();
    assert_eq!(layout.guest.total() + bytes, shape.ram.total());
    // Where the reservation ends something begins that is not the guest's to use: the end of a
    // bank, or what is taken.
    let bank =
        shape.ram.as_slice().iter().find(|bank| bank.covers(&layout.reserved)).expect("in a bank");
    let next = PhysRange { start: layout.reserved.end, end: layout.reserved.end + PAGE };
    let firmware = shape.firmware.as_slice().iter();
    let mut taken =
        firmware.chain(&shape.sources).chain(shape.initrd.as_ref()).chain([&shape.image]);
    let is_border = layout.reserved.end == bank.end || taken.any(|other| other.overlaps(&next));
    assert!(is_border, "free memory behind {}", layout.reserved);
    let kept = if shape.keeps_image { 0 } else { own[1].size() };
    assert_eq!(layout.offered.total() + layout.reserved.size() + kept, shape.ram.total());
}

/// What a walk of the tables finds: each leaf once, by level, with its bytes and whether it is RAM.
fn leaves(
    words: &Words,
    table: u64,
    base: u64,
    level: u32,
    found: &mut dyn FnMut(PhysRange, bool),
) {
    let bytes = 1u64 << (39 - 9 * level);
    let entries = if level == 1 { 1 << (IPA_BITS - 30) } else { 512 };
    for index in 0..entries {
        let at = base + index * bytes;
        let entry = (&words).load(table, index as usize);
        match (entry & 1, entry >> 1 & 1) {
            (0, _) => {}
            (1, 1) if level < 3 => leaves(words, entry & 0xffff_ffff_f000, at, level + 1, found),
            _ => {
                assert_eq!(entry & 0xffff_ffff_f000, at, "everything is at home");
                // `MemAttr` of forced Write-Back.
                found(PhysRange { start: at, end: at + bytes }, entry >> 2 & 0xf == 0b0110);
            }
        }
    }
}

fn check_map(shape: &Shape, layout: &MemoryLayout, holes: &[PhysRange]) {
    let words = Words::default();
    let mut stage2 = Stage2::new(&words, layout.tables, IPA_BITS, true).expect("room");
    let map = GuestMap {
        ram: &shape.ram,
        guest: &layout.guest,
        release: layout.release,
        around_ram: shape.around_ram,
        by_page: shape.by_page(),
        holes,
        ipa_bits: IPA_BITS,
    };
    map.map(&mut stage2).expect("the tables suffice");
    let (mut ram_bytes, mut device_bytes) = (0, 0);
    leaves(&words, stage2.root().table, 0, 1, &mut |leaf, is_ram| {
        let is_page = leaf.size() == PAGE;
        if is_ram {
            assert!(
                layout.guest.covers(&leaf) || leaf == layout.release,
                "{leaf} is not the guest's"
            );
            ram_bytes += leaf.size();
        } else {
            assert!(!shape.ram.overlaps(&leaf), "{leaf} is RAM");
            assert!(!holes.iter().any(|hole| hole.overlaps(&leaf)), "{leaf} traps");
            assert!(is_page || !leaf.overlaps(&shape.around_ram), "{leaf} is a block beside RAM");
            device_bytes += leaf.size();
        }
        assert!(is_page || !leaf.overlaps(&shape.by_page()), "{leaf} is a block below the image");
    });
    // Each leaf lies inside, none is met twice, and the sums are right: so everything is mapped,
    // once.
    assert_eq!(ram_bytes, layout.guest.total() + PAGE);
    let hole_bytes: u64 = holes.iter().map(PhysRange::size).sum();
    assert_eq!(device_bytes, (1 << IPA_BITS) - shape.ram.total() - hole_bytes);
    let load = |table, index| (&&words).load(table, index);
    assert_eq!(first_block(&load, stage2.root().table, shape.by_page()), None);
}

#[test]
fn memory_of_any_shape_is_shared_out_and_mapped_once() {
    let mut random = Random(0x0c4e);
    let holes = [
        PhysRange { start: 0x2_3500_4000, end: 0x2_3500_8000 },
        PhysRange { start: 0x6_0000_0000, end: 0x6_0000_1000 },
    ];
    let mut planned = 0;
    for number in 0..SHAPES {
        let shape = Shape::new(&mut random);
        match shape.plan() {
            Ok(layout) => {
                check_plan(&shape, &layout);
                check_map(&shape, &layout, &holes);
                planned += 1;
            }
            Err(LayoutError::TooLittleMemory { .. } | LayoutError::NoPlaceForGuest) => {}
            Err(error) => panic!("shape {number}: {error}: {shape:?}"),
        }
    }
    assert!(planned > SHAPES / 2, "{planned} of {SHAPES} shapes have room");
}

#[test]
fn ram_beyond_the_guests_addresses_is_refused() {
    let mut random = Random(1);
    let mut shape = Shape::new(&mut random);
    shape
        .ram
        .push(PhysRange { start: (1 << IPA_BITS) - PAGE, end: (1 << IPA_BITS) + PAGE })
        .expect("room");
    let words = Words::default();
    let tables = PhysRange { start: 0x1_0000, end: 0x100_0000 };
    let mut stage2 = Stage2::new(&words, tables, IPA_BITS, true).expect("room");
    let map = GuestMap {
        ram: &shape.ram,
        guest: &shape.ram,
        release: PhysRange::default(),
        around_ram: shape.around_ram,
        by_page: shape.by_page(),
        holes: &[],
        ipa_bits: IPA_BITS,
    };
    assert_eq!(map.map(&mut stage2), Err(MapError::BeyondReach { end: (1 << IPA_BITS) + PAGE }));
}
