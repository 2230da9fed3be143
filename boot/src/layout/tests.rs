//! Plans for memory of many shapes.

use super::*;

const MIB: u64 = 1 << 20;

fn ram(ranges: &[(u64, u64)]) -> RangeList {
    let mut list = RangeList::new();
    for (start, size) in ranges {
        list.push(PhysRange::sized(*start, *size).expect("fits")).expect("room");
    }
    list
}

fn request<'a>(
    ram: &'a RangeList,
    none: &'a RangeList,
    sources: &'a [PhysRange],
) -> LayoutRequest<'a> {
    LayoutRequest {
        ram,
        firmware: none,
        image: PhysRange { start: 0x4020_0000, end: 0x4040_1000 },
        sources,
        initrd: Some(PhysRange { start: 0x4300_0000, end: 0x4400_0123 }),
        kernel: Kernel { text_offset: 0, image_size: 31 * MIB },
        pool_bytes: None,
        trace_bytes: 5 * MIB,
        engine_bytes: |_, _| 3 * MIB,
        around_ram: PhysRange::default(),
        by_page: PhysRange { start: 0x4000_0000, end: 0x4020_0000 },
        keeps_image: false,
        address_limit: 1 << 39,
    }
}

#[test]
fn nothing_overlaps_and_the_guest_gets_the_rest() {
    let (ram, none) = (ram(&[(0x4000_0000, 2048 * MIB)]), RangeList::new());
    let sources = [
        PhysRange { start: 0x4800_0000, end: 0x4810_0000 },
        PhysRange { start: 0x4040_1000, end: 0x4300_0000 },
    ];
    let request = request(&ram, &none, &sources);
    let mut layout = MemoryLayout::plan(&request).expect("it fits");
    let fdt = layout.place_fdt(0x1_2345).expect("it fits");
    let parts =
        [layout.trace, layout.heap, layout.tables, layout.pool, layout.kernel, layout.image, fdt];
    for (index, one) in parts.iter().enumerate() {
        assert!(ram.covers(one), "{one}");
        assert!(parts.iter().skip(index + 1).all(|other| !one.overlaps(other)), "{one}");
        assert!(!sources.iter().any(|source| source.overlaps(one)), "{one}");
        assert!(!request.initrd.expect("given").overlaps(one), "{one}");
    }
    assert_eq!(layout.pool.size(), 128 * MIB);
    assert_eq!(layout.pool.end, 0xc000_0000, "at the top");
    assert!(layout.trace.start.is_multiple_of(BLOCK) && layout.kernel.start.is_multiple_of(BLOCK));
    let own = layout.image.size() + layout.reserved.size();
    assert_eq!(layout.guest.total() + own, ram.total());
    assert!(layout.guest.covers(&layout.kernel) && layout.guest.covers(&fdt));
    assert!(!layout.guest.overlaps(&layout.image) && !layout.guest.overlaps(&layout.reserved));
}

#[test]
fn too_little_memory_is_an_error_and_not_squeezed() {
    let (ram, none) = (ram(&[(0x4000_0000, 64 * MIB)]), RangeList::new());
    let mut request = request(&ram, &none, &[]);
    request.image.end = 0x4030_0000;
    assert!(matches!(MemoryLayout::plan(&request), Err(LayoutError::TooLittleMemory { .. })));
    request.pool_bytes = Some(MIB);
    assert_eq!(MemoryLayout::plan(&request).err(), Some(LayoutError::PoolTooSmall));
    request.pool_bytes = Some(u64::MAX);
    assert!(matches!(MemoryLayout::plan(&request), Err(LayoutError::TooLittleMemory { .. })));
}

#[test]
fn the_pool_is_bounded_unless_it_is_asked_for() {
    let none = RangeList::new();
    let pool = |ram_mib: u64, wanted: Option<u64>| {
        let ram = ram(&[(0x4000_0000, ram_mib * MIB)]);
        let request = LayoutRequest { pool_bytes: wanted, ..request(&ram, &none, &[]) };
        MemoryLayout::plan(&request).expect("it fits").pool.size() / MIB
    };
    assert_eq!([256, 400, 512, 8192, 16384].map(|mib| pool(mib, None)), [64, 100, 128, 128, 128]);
    assert_eq!(pool(8192, Some(2048 * MIB)), 2048);
    assert_eq!(default_pool_bytes(MIB), LEAST_POOL_BYTES);
}

#[test]
fn a_pool_that_does_not_fit_is_an_error_that_names_one_that_fits() {
    let (ram, none) = (ram(&[(0x4000_0000, 1024 * MIB)]), RangeList::new());
    let plan = |pool| {
        let request = LayoutRequest { pool_bytes: Some(pool), ..request(&ram, &none, &[]) };
        MemoryLayout::plan(&request)
    };
    let Err(LayoutError::TooLittleMemory { fitting_pool: Some(fits), .. }) = plan(2048 * MIB)
    else {
        panic!("1 GiB has room for no pool of 2 GiB, and for a smaller one");
    };
    assert!(plan(fits).is_ok() && plan(fits + BLOCK).is_err());
    let text = plan(2048 * MIB).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(text.ends_with(&format!("2048 of them for oche.pool; oche.pool={}M fits", fits >> 20)));
}

#[test]
fn firmwares_memory_is_never_used() {
    let (ram, mut firmware) = (ram(&[(0x4000_0000, 1024 * MIB)]), RangeList::new());
    firmware.push(PhysRange { start: 0x7f00_0000, end: 0x8000_0000 }).expect("room");
    let layout = MemoryLayout::plan(&request(&ram, &firmware, &[])).expect("it fits");
    assert_eq!(layout.pool.end, 0x7f00_0000);
    assert!(
        layout.guest.covers(&PhysRange { start: 0x7f00_0000, end: 0x8000_0000 }),
        "but the guest sees it"
    );
}

#[test]
fn the_reservation_runs_to_the_end_of_ram_and_leaves_the_guest_one_bank() {
    let none = RangeList::new();
    for end in [0xbfff_f000, 0xbfe0_4000, 0xbfe0_0000, 0xbfdf_c000, 0xbfe0_1000] {
        let ram = ram(&[(0x4001_c000, end - 0x4001_c000)]);
        let layout =
            MemoryLayout::plan(&LayoutRequest { keeps_image: true, ..request(&ram, &none, &[]) })
                .expect("it fits");
        let bank = PhysRange { start: 0x4001_c000, end: layout.reserved.start };
        assert_eq!(layout.offered.as_slice(), [bank], "RAM ends at {end:#x}");
        assert_eq!(layout.reserved.end, end);
        assert!(layout.reserved.covers(&layout.release) && !layout.pool.overlaps(&layout.release));
    }
}

#[test]
fn what_is_no_whole_page_is_not_offered() {
    let (ram, none) = (ram(&[(0x4000_0123, 1024 * MIB)]), RangeList::new());
    let layout = MemoryLayout::plan(&request(&ram, &none, &[])).expect("it fits");
    assert_eq!(layout.offered.as_slice().first().map(|range| range.start), Some(0x4000_1000));
    assert_eq!(layout.reserved.end, 0x8000_0000);
}

#[test]
fn own_tables_grow_with_what_is_mapped_in_pages() {
    let (ram, none) = (ram(&[(0x4000_0000, 4096 * MIB)]), RangeList::new());
    let pages = |end| {
        let by_page = PhysRange { start: 0x4000_0000, end };
        let image = PhysRange { start: end, end: end + 2 * MIB };
        let request = LayoutRequest { by_page, image, initrd: None, ..request(&ram, &none, &[]) };
        MemoryLayout::plan(&request).expect("it fits").own_tables.size() / PAGE
    };
    assert_eq!(pages(0x4020_0000), 1 + SPARE_OWN_TABLES);
    assert_eq!(pages(0xc000_0000), 1024 + SPARE_OWN_TABLES);
}
