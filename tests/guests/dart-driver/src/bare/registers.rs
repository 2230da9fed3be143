//! What drivers write into a DART's registers reads back, whoever answers: the hardware, or the
//! virtual DART.

use super::dart::{Dart, fill, is_filled, page, store};
use super::drivers::{Check, check};

/// Streams and their registers. Source: `docs/hardware/dart.md`, "Registers".
const STREAMS: u64 = 16;
/// `PARAMS2`.
const ABILITIES: u64 = 4;
const SELECT: u64 = 0x34;
const CONFIG: u64 = 0x60;
const ENABLE: u64 = 0xfc;

fn tcr(stream: u64) -> u64 {
    0x100 + 4 * stream
}

fn ttbr(stream: u64, index: u64) -> u64 {
    0x200 + 16 * stream + 4 * index
}

/// A value of its own for each table register: not valid, so nothing is ever walked.
fn pattern(stream: u64, index: u64) -> u32 {
    0x0080_0000 | (stream as u32) << 8 | (index as u32) << 4 | 0xb
}

/// Every register that Linux, U-Boot and the BSDs write, each with a value of its own; all are read
/// behind all stores.
pub(super) fn read_back(dart: Dart) -> Check {
    // Not PARAMS1: whoever reads that asks for 4K pages.
    let abilities = dart.read(ABILITIES);
    for stream in 0..STREAMS {
        (0..4).for_each(|index| dart.write(ttbr(stream, index), pattern(stream, index)));
        // What drivers write there: off, and translate, which faults without a table.
        dart.write(tcr(stream), [0, 0x80][stream as usize % 2]);
    }
    dart.write(ENABLE, 0x5a5a);
    dart.write(SELECT, 0xa5a5);
    for stream in 0..STREAMS {
        check(dart.read(tcr(stream)) == [0, 0x80][stream as usize % 2], "a TCR")?;
        for index in 0..4 {
            check(dart.read(ttbr(stream, index)) == pattern(stream, index), "a TTBR")?;
        }
    }
    check(dart.read(ENABLE) == 0x5a5a, "the enabled streams")?;
    check(dart.read(SELECT) == 0xa5a5, "the selected streams")?;
    check(dart.read(ABILITIES) == abilities, "what it says of itself")?;
    check(dart.read(CONFIG) & 1 << 15 == 0, "it is locked")?;
    hand_off(dart)?;
    dart.write(ENABLE, 0xffff);
    check(dart.read(ENABLE) == 0xffff, "all streams enabled")
}

/// As U-Boot and OpenBSD leave a DART to whoever comes next: zeros, and they are zeros.
pub(super) fn hand_off(dart: Dart) -> Check {
    for stream in 0..STREAMS {
        dart.write(tcr(stream), 0);
        (0..4).for_each(|index| dart.write(ttbr(stream, index), 0));
    }
    dart.flush(0xffff)?;
    for stream in 0..STREAMS {
        let is_zero =
            dart.read(tcr(stream)) == 0 && (0..4).all(|index| dart.read(ttbr(stream, index)) == 0);
        check(is_zero, "something is left behind")?;
    }
    Ok(())
}

/// As the driver that FreeBSD is getting: 16K tables, and the stream's number where its bit
/// belongs. What it maps before the first DMA works on hardware all the same, and so it must here.
pub(super) fn freebsd(dart: Dart) -> Check {
    check(dart.read(CONFIG) & 1 << 15 == 0, "it is locked")?;
    let [root, leaves, source, target] = [16, 20, 24, 28].map(page);
    for table in [root, leaves] {
        (0..2048).for_each(|entry| store(table + entry * 8, 0));
    }
    let iova = 0x6000_0000_u64;
    store(root + (iova >> 25 & 0x7ff) * 8, leaves | 1);
    for (index, place) in [source, target].into_iter().enumerate() {
        store(leaves + ((iova >> 14 & 0x7ff) + index as u64) * 8, 0xfff << 40 | place | 3);
    }
    (0..4).for_each(|part| fill(source + part * 4096, 0x70 + part));
    dart.attach(1, &[root]);
    check(dart.read(ttbr(1, 0)) == 1 << 31 | (root >> 12) as u32, "a TTBR")?;
    dart.flush(1)?;
    check(dart.read(SELECT) == 1, "the selected streams")?;
    check(dart.copy(1, iova, iova + 0x4000, 0x4000)?, "its tables are refused")?;
    check(
        (0..4).all(|part| is_filled(target + part * 4096, 0x70 + part, 4096)),
        "DMA went elsewhere",
    )?;
    hand_off(dart)
}
