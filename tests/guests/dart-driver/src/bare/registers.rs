//! What drivers write to a DART's registers reads back, from the hardware and from the emulated
//! DART.

use oche_guest_common::{Check, check};

use super::arena::{fill_16k, is_filled_16k, page, store};
use super::dart::{CONFIG, Dart, ENABLE, PARAMS2, SELECT, STREAMS, TRANSLATE, tcr, ttbr, ttbr_of};
use super::tables::{leaf_16k, tables_16k};

/// A different value for each TTBR. None is valid, so nothing is walked.
fn pattern(stream: u64, index: u64) -> u32 {
    0x0080_0000 | (stream as u32) << 8 | (index as u32) << 4 | 0xb
}

/// Every register that Linux, U-Boot and the BSDs write. All are written, each with a different
/// value, before the first is read.
pub(super) fn read_back(dart: Dart) -> Check {
    // Not PARAMS1: to read that is to ask for 4 KiB pages.
    let params = dart.read(PARAMS2);
    for stream in 0..STREAMS {
        (0..4).for_each(|index| dart.write(ttbr(stream, index), pattern(stream, index)));
        // The values of drivers: off, and translate, which faults without a table.
        dart.write(tcr(stream), [0, TRANSLATE][stream as usize % 2]);
    }
    dart.write(ENABLE, 0x5a5a);
    dart.write(SELECT, 0xa5a5);
    for stream in 0..STREAMS {
        check(dart.read(tcr(stream)) == [0, TRANSLATE][stream as usize % 2], "a TCR")?;
        for index in 0..4 {
            check(dart.read(ttbr(stream, index)) == pattern(stream, index), "a TTBR")?;
        }
    }
    check(dart.read(ENABLE) == 0x5a5a, "the enabled streams")?;
    check(dart.read(SELECT) == 0xa5a5, "the selected streams")?;
    check(dart.read(PARAMS2) == params, "PARAMS2")?;
    check(dart.read(CONFIG) & 1 << 15 == 0, "it is locked")?;
    hand_off(dart)?;
    dart.write(ENABLE, 0xffff);
    check(dart.read(ENABLE) == 0xffff, "all streams enabled")
}

/// As U-Boot and OpenBSD hand a DART over: they write zeros, which must read back.
pub(super) fn hand_off(dart: Dart) -> Check {
    for stream in 0..STREAMS {
        dart.write(tcr(stream), 0);
        (0..4).for_each(|index| dart.write(ttbr(stream, index), 0));
    }
    dart.flush(0xffff)?;
    for stream in 0..STREAMS {
        let is_zero =
            dart.read(tcr(stream)) == 0 && (0..4).all(|index| dart.read(ttbr(stream, index)) == 0);
        check(is_zero, "a register is not zero")?;
    }
    Ok(())
}

/// As FreeBSD's proposed driver: 16 KiB tables, and a flush that selects by the stream's number
/// instead of its bit. What it maps before the first DMA works on hardware, and so it must here.
pub(super) fn freebsd(dart: Dart) -> Check {
    check(dart.read(CONFIG) & 1 << 15 == 0, "it is locked")?;
    let [root, leaves, source, target] = [16, 20, 24, 28].map(page);
    let iova = 0x6000_0000_u64;
    tables_16k(root, leaves, iova, 1);
    for (index, place) in [source, target].into_iter().enumerate() {
        store(leaf_16k(leaves, iova) + index as u64 * 8, 0xfff << 40 | place | 3);
    }
    fill_16k(source, 0x70);
    dart.attach(1, &[root]);
    check(dart.read(ttbr(1, 0)) == ttbr_of(root), "a TTBR")?;
    dart.flush(1)?;
    check(dart.read(SELECT) == 1, "the selected streams")?;
    check(dart.copy(1, iova, iova + 0x4000, 0x4000)?, "its tables are refused")?;
    check(is_filled_16k(target, 0x70), "DMA went elsewhere")?;
    hand_off(dart)
}
