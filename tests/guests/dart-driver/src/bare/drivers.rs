//! What drivers do: Linux with 4K tables, U-Boot and OpenBSD with 16K tables, two DARTs with one
//! table.

use super::dart::{Dart, fill, is_filled, load, page, store};
use super::{Tally, registers};

/// The board's DARTs, in its order: see `oche_m1_sim::DARTS`.
const PCIE_0: Dart = Dart { base: 0x6_8100_8000, number: 0 };
const PCIE_1: Dart = Dart { base: 0x6_8200_8000, number: 1 };
const USB_0: Dart = Dart { base: 0x3_82f0_0000, number: 2 };
const USB_1: Dart = Dart { base: 0x3_82f8_0000, number: 3 };
const DISPLAY: Dart = Dart { base: 0x2_3130_4000, number: 5 };

/// Where Linux puts the first mapping.
pub(super) const IOVA: u64 = 0xffff_0000;
/// A leaf entry as Linux writes it: valid, window off, to its end; and one that the device only
/// reads.
pub(super) const READ_WRITE: u64 = 0xfff << 40 | 3;
const READ_ONLY: u64 = READ_WRITE | 1 << 7;

pub(super) type Check = Result<(), &'static str>;

pub(super) fn run(tally: &mut Tally) {
    tally.case(format_args!("linux: map, DMA both ways, unmap"), linux(PCIE_0));
    tally.case(format_args!("linux: a page alone in its granule"), alone(PCIE_0));
    tally.case(
        format_args!("linux: a run at home, and a neighbour that is not"),
        neighbours(PCIE_0),
    );
    tally.case(format_args!("linux: suspend and resume"), resume(PCIE_0));
    tally.case(format_args!("linux: two DARTs, one table"), usb());
    tally.case(format_args!("linux: every register reads back"), registers::read_back(PCIE_0));
    tally.case(
        format_args!("u-boot and openbsd: every register reads back"),
        registers::read_back(PCIE_1),
    );
    tally.case(format_args!("freebsd: 16K, another flush"), registers::freebsd(PCIE_1));
    tally.case(format_args!("openbsd: 16K, part of a page"), openbsd(PCIE_1));
    tally.case(format_args!("u-boot: 16K, then linux: 4K"), uboot_then_linux(PCIE_1));
    tally.case(format_args!("a locked DART is as it was"), locked());
}

pub(super) fn check(is_true: bool, reason: &'static str) -> Check {
    if is_true { Ok(()) } else { Err(reason) }
}

/// Whether the DART says that it has 4K pages, as Linux asks.
fn asks_for_4k(dart: Dart) -> Check {
    check(dart.read(0) >> 24 & 0xf == 12, "no 4K pages")?;
    check(dart.read(4) & 1 == 0, "bypass is offered")
}

/// A first-level and a leaf table for [`IOVA`], from two pages of the arena.
pub(super) fn tables(first: usize) -> (u64, u64) {
    let (root, leaves) = (page(first), page(first + 1));
    (0..512).for_each(|entry| store(root + entry * 8, 0));
    (0..512).for_each(|entry| store(leaves + entry * 8, 0));
    store(root + (IOVA >> 21 & 0x1ff) * 8, leaves | 1);
    (root, leaves)
}

pub(super) fn set(leaves: u64, iova: u64, entry: u64) {
    store(leaves + (iova >> 12 & 0x1ff) * 8, entry);
}

/// The root in the TTBR that [`IOVA`] selects.
pub(super) fn attach(dart: Dart, stream: u64, root: u64) {
    dart.attach(stream, &[root, root, root, root]);
}

/// Four pages from four places in one granule, and three more behind them: a copy across all
/// borders.
pub(super) fn linux(dart: Dart) -> Check {
    asks_for_4k(dart)?;
    dart.reset()?;
    let (root, leaves) = tables(0);
    attach(dart, 1, root);
    dart.flush(2)?;
    check(!dart.copy(1, IOVA, IOVA + 0x4000, 8)?, "DMA where nothing is mapped")?;
    let error = dart.read(0x40);
    check(error >> 31 == 1 && error >> 24 & 0xf == 1, "no fault, or another stream's")?;
    check(dart.read(0x50) == IOVA as u32, "another IOVA's fault")?;
    dart.write(0x40, error);
    check(dart.read(0x40) >> 31 == 0, "the fault stays")?;

    let sources = [11, 5, 14, 8].map(page);
    let targets = [23, 17, 26].map(page);
    for (index, source) in sources.into_iter().enumerate() {
        fill(source, 0x100 + index as u64);
        set(leaves, IOVA + index as u64 * 4096, source | READ_ONLY);
    }
    for (index, target) in targets.into_iter().enumerate() {
        set(leaves, IOVA + 0x4000 + index as u64 * 4096, target | READ_WRITE);
    }
    dart.flush(2)?;
    check(dart.copy(1, IOVA, IOVA + 0x4000, 3 * 4096)?, "a mapped copy was refused")?;
    for (index, target) in targets.into_iter().enumerate() {
        check(
            is_filled(target, 0x100 + index as u64, 4096),
            "the CPU reads something else than the device wrote",
        )?;
    }
    // A long-lived mapping: what the CPU writes now, the device reads.
    fill(targets[0], 0x777);
    check(dart.copy(1, IOVA + 0x4000, IOVA + 0x6000, 4096)?, "a second copy was refused")?;
    check(
        is_filled(targets[2], 0x777, 4096),
        "the device reads something else than the CPU wrote",
    )?;
    // The page behind shares a granule: it is refused, or reaches nobody's byte.
    dart.copy(1, IOVA + 0x4000, IOVA + 0x7000, 4)?;
    dart.write(0x40, dart.read(0x40));

    for index in 0..7 {
        set(leaves, IOVA + index * 4096, 0);
    }
    dart.flush(2)?;
    check(!dart.copy(1, IOVA, IOVA + 0x4000, 4)?, "DMA after unmapping")?;
    dart.write(0x40, dart.read(0x40));
    check(
        is_filled(sources[0], 0x100, 4096) && is_filled(targets[2], 0x777, 4096),
        "memory after unmapping",
    )
}

/// The other three slots of a granule are refused, as a 4K DART would, though the hardware's page
/// covers them.
fn alone(dart: Dart) -> Check {
    let (root, leaves) = tables(0);
    dart.reset()?;
    let [own, neighbour, witness] = [33, 34, 37].map(page);
    fill(own, 1);
    fill(neighbour, 2);
    fill(witness, 3);
    set(leaves, IOVA + 0x1000, own | READ_WRITE);
    set(leaves, IOVA + 0x8000, witness | READ_WRITE);
    attach(dart, 1, root);
    dart.flush(2)?;
    // The first and the last word of each, too: a window may be wrong by one.
    for beside in [0, 0x2000, 0x3000].into_iter().flat_map(|slot| [slot, slot + 0xffc]) {
        refuses(dart, IOVA + 0x8000, IOVA + beside, "a device writes beside the page")?;
        refuses(dart, IOVA + beside, IOVA + 0x8000, "a device reads beside the page")?;
    }
    check(dart.copy(1, IOVA + 0x1000, IOVA + 0x8000, 4096)?, "the page itself is refused")?;
    check(is_filled(witness, 1, 4096), "the page itself holds other bytes")?;
    check(is_filled(neighbour, 2, 4096), "a device wrote a page that is not mapped")?;
    check(is_filled(own, 1, 4096), "the page itself was written")
}

/// A run of pages at home is reached there; a neighbour from elsewhere comes while devices use it,
/// and goes again.
fn neighbours(dart: Dart) -> Check {
    let (root, leaves) = tables(0);
    dart.reset()?;
    let [first, other, target] = [24, 41, 51].map(page);
    (0..3).for_each(|index| fill(first + index * 4096, 0x10 + index));
    fill(other, 0x20);
    for index in 0..3 {
        set(leaves, IOVA + index * 4096, (first + index * 4096) | READ_WRITE);
    }
    set(leaves, IOVA + 0x8000, target | READ_WRITE);
    attach(dart, 1, root);
    dart.flush(2)?;
    check(dart.copy(1, IOVA + 0x2000, IOVA + 0x8000, 4096)?, "a run at home is refused")?;
    check(is_filled(target, 0x12, 4096), "a run at home holds other bytes")?;
    refuses(dart, IOVA + 0x3000, IOVA + 0x8000, "a device reads behind the run")?;
    set(leaves, IOVA + 0x3000, other | READ_ONLY);
    dart.flush(2)?;
    check(dart.copy(1, IOVA, IOVA + 0x1000, 4096)?, "the run is refused after it moved")?;
    check(
        is_filled(first + 0x1000, 0x10, 4096),
        "the CPU reads something else than the device wrote",
    )?;
    check(dart.copy(1, IOVA + 0x3000, IOVA + 0x8000, 4096)?, "the neighbour is refused")?;
    check(is_filled(target, 0x20, 4096), "the neighbour holds other bytes")?;
    set(leaves, IOVA + 0x3000, 0);
    dart.flush(2)?;
    refuses(dart, IOVA + 0x3000, IOVA + 0x8000, "a device reads what is unmapped")?;
    (0..3).for_each(|index| set(leaves, IOVA + index * 4096, 0));
    dart.flush(2)?;
    check(
        is_filled(first + 0x1000, 0x10, 4096) && is_filled(other, 0x20, 4096),
        "memory after unmapping",
    )
}

/// A copy must be refused, and the DART must say so.
fn refuses(dart: Dart, from: u64, to: u64, reason: &'static str) -> Check {
    check(!dart.copy(1, from, to, 4096)?, reason)?;
    let error = dart.read(0x40);
    let at = u64::from(dart.read(0x50));
    check(error >> 31 == 1 && (at == from || at == to), "no fault, or another one")?;
    dart.write(0x40, error);
    Ok(())
}

/// As OpenBSD: 16K tables, a mapping of part of a page with a window to the byte (to four bytes),
/// bit 1 clear.
fn openbsd(dart: Dart) -> Check {
    let [root, leaves, source, target] = [0, 4, 8, 12].map(page);
    for table in [root, leaves] {
        (0..2048).for_each(|entry| store(table + entry * 8, 0));
    }
    let iova = 0x4000_0000_u64;
    // Bytes 0x1234 to 0x2abc of the page.
    let window = |address: u64| (0x1234_u64 / 4) << 52 | (0x2abc_u64 / 4 - 1) << 40 | address | 1;
    let whole = |address: u64| 0xfff << 40 | address | 1;
    store(root + (iova >> 25 & 0x7ff) * 8, leaves | 3);
    store(leaves + (iova >> 14 & 0x7ff) * 8, window(source));
    store(leaves + ((iova >> 14 & 0x7ff) + 1) * 8, whole(target));
    (0..4).for_each(|part| fill(source + part * 4096, 0x50 + part));
    (0..4).for_each(|part| fill(target + part * 4096, 0x60 + part));
    dart.attach(1, &[root]);
    dart.flush(0xffff)?;
    check(load(leaves + (iova >> 14 & 0x7ff) * 8) == window(source), "an entry was changed")?;
    check(dart.copy(1, iova + 0x1234, iova + 0x5234, 0x2abc - 0x1234)?, "the window is refused")?;
    for byte in (0x1238..0x2ab8).step_by(8) {
        check(load(target + byte) == load(source + byte), "the bytes in the window are others")?;
    }
    check(
        load(target + 0x2ac0) == 0x62 << 32 | (0xac0 / 8),
        "bytes behind the window were copied",
    )?;
    for outside in [0x1230, 0x2abc] {
        check(
            !dart.copy(1, iova + outside, iova + 0x4000, 4)?,
            "a device reads beside the window",
        )?;
        check(dart.read(0x40) == 1 << 31 | 1 << 24 | 1 << 7, "another error, or none")?;
        check(u64::from(dart.read(0x50)) == iova + outside, "another IOVA's error")?;
        dart.write(0x40, dart.read(0x40));
    }
    registers::hand_off(dart)
}

/// As Linux 6.1 suspends: it reads every TCR and TTBR, and after a reset writes them again, without
/// a flush.
fn resume(dart: Dart) -> Check {
    let (root, leaves) = tables(0);
    dart.reset()?;
    let [source, target] = [40, 45].map(page);
    fill(source, 9);
    set(leaves, IOVA, source | READ_ONLY);
    set(leaves, IOVA + 0x1000, target | READ_WRITE);
    attach(dart, 1, root);
    dart.flush(2)?;
    let tcr = dart.read(0x104);
    let ttbr = [0, 4, 8, 12].map(|offset| dart.read(0x210 + offset));
    check(
        tcr == 0x80 && ttbr[0] == 1 << 31 | (root >> 12) as u32,
        "a register reads back as something else",
    )?;
    dart.power_cycle()?;
    dart.reset()?;
    for (index, value) in ttbr.into_iter().enumerate() {
        dart.write(0x210 + 4 * index as u64, value);
    }
    dart.write(0x104, tcr);
    check(dart.copy(1, IOVA, IOVA + 0x1000, 4096)?, "DMA after resume was refused")?;
    check(is_filled(target, 9, 4096), "DMA after resume went elsewhere")
}

/// Stream 0 of the one and stream 1 of the other, as a USB controller has it.
fn usb() -> Check {
    for dart in [USB_0, USB_1] {
        asks_for_4k(dart)?;
        dart.reset()?;
    }
    let (root, leaves) = tables(2);
    let [source, first, second] = [48, 53, 58].map(page);
    fill(source, 5);
    for (dart, stream) in [(USB_0, 0), (USB_1, 1)] {
        attach(dart, stream, root);
        dart.flush(1 << stream)?;
    }
    for (index, place) in [source, first, second].into_iter().enumerate() {
        set(leaves, IOVA + index as u64 * 4096, place | READ_WRITE);
    }
    // Linux flushes both.
    USB_0.flush(1)?;
    USB_1.flush(2)?;
    check(USB_0.copy(0, IOVA, IOVA + 0x1000, 4096)?, "the first DART refuses")?;
    check(USB_1.copy(1, IOVA + 0x1000, IOVA + 0x2000, 4096)?, "the second DART refuses")?;
    check(is_filled(first, 5, 4096) && is_filled(second, 5, 4096), "the bytes are others")?;
    check(!USB_1.copy(0, IOVA, IOVA + 0x1000, 4)?, "a stream without a table")?;
    USB_1.write(0x40, USB_1.read(0x40));
    (0..3).for_each(|index| set(leaves, IOVA + index * 4096, 0));
    USB_0.flush(1)?;
    USB_1.flush(2)?;
    check(!USB_1.copy(1, IOVA, IOVA + 0x1000, 4)?, "DMA after unmapping")?;
    USB_1.write(0x40, USB_1.read(0x40));
    Ok(())
}

/// As U-Boot: it never asks, has 16K tables of its own, and leaves zeros behind. Then Linux comes
/// and asks.
fn uboot_then_linux(dart: Dart) -> Check {
    // 16 KiB each: a first level, a leaf table, source and target.
    let [root, leaves, source, target] = [0, 4, 8, 12].map(page);
    for table in [root, leaves] {
        (0..2048).for_each(|entry| store(table + entry * 8, 0));
    }
    let iova = 0x4000_0000_u64;
    store(root + (iova >> 25 & 0x7ff) * 8, leaves | 3);
    store(leaves + (iova >> 14 & 0x7ff) * 8, source | READ_WRITE);
    store(leaves + ((iova >> 14 & 0x7ff) + 1) * 8, target | READ_WRITE);
    (0..4).for_each(|part| fill(source + part * 4096, 0x30 + part));
    check(dart.read(4) & 1 == 1, "what the hardware says of bypass is hidden")?;
    dart.attach(1, &[root]);
    check(
        dart.read(0x210) == 1 << 31 | (root >> 12) as u32,
        "a TTBR reads back as something else",
    )?;
    dart.flush(0xffff)?;
    check(dart.read(0) >> 24 & 0xf == 14, "4K pages while 16K tables are in use")?;
    check(dart.copy(1, iova, iova + 0x4000, 0x4000)?, "16K tables are refused")?;
    check(
        (0..4).all(|part| is_filled(target + part * 4096, 0x30 + part, 4096)),
        "16K DMA went elsewhere",
    )?;
    registers::hand_off(dart)?;
    linux(dart)
}

/// Read, and never written: what iBoot left is there.
fn locked() -> Check {
    check(DISPLAY.read(0x60) & 1 << 15 != 0, "it is not locked")?;
    check(
        DISPLAY.read(0x100) == 0x80 && DISPLAY.read(0x200) == 0x8080_1234,
        "it is not as it was",
    )?;
    check(DISPLAY.read(0) >> 24 & 0xf == 14, "it is not the hardware that answers")?;
    // Nothing else looked at it either.
    check(load(page(63)) == 0, "a page that nobody uses")
}
