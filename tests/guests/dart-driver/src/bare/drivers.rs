//! What drivers do: Linux with 4 KiB pages, U-Boot and OpenBSD with 16 KiB pages, two DARTs with
//! one table.

use oche_guest_common::{CaseReport, Check, check};

use super::arena::{fill, fill_16k, is_filled, is_filled_16k, load, page, store};
use super::board::{DISPLAY, PCIE_0, PCIE_1, USB_0, USB_1};
use super::dart::{
    CONFIG, Dart, ERROR, ERROR_IOVA, PARAMS1, PARAMS2, TRANSLATE, tcr, ttbr, ttbr_of,
};
use super::registers;
use super::tables::{IOVA, READ_ONLY, READ_WRITE, attach, leaf_16k, set, tables, tables_16k};

pub(super) fn run(report: &mut CaseReport) {
    report.case(format_args!("linux: map, DMA both ways, unmap"), linux(PCIE_0));
    report.case(format_args!("linux: a page alone in its granule"), alone(PCIE_0));
    report.case(
        format_args!("linux: a run at home, and a neighbour that is not"),
        neighbours(PCIE_0),
    );
    report.case(format_args!("linux: suspend and resume"), resume(PCIE_0));
    report.case(format_args!("linux: two DARTs, one table"), usb());
    report.case(format_args!("linux: every register reads back"), registers::read_back(PCIE_0));
    report.case(
        format_args!("u-boot and openbsd: every register reads back"),
        registers::read_back(PCIE_1),
    );
    report.case(format_args!("freebsd: 16K, another flush"), registers::freebsd(PCIE_1));
    report.case(format_args!("openbsd: 16K, part of a page"), openbsd(PCIE_1));
    report.case(format_args!("u-boot: 16K, then linux: 4K"), uboot_then_linux(PCIE_1));
    report.case(format_args!("a locked DART is as it was"), locked());
}

/// Reads the page size and bypass support as Linux does: 4 KiB, and none.
fn asks_for_4k(dart: Dart) -> Check {
    check(page_shift(dart) == 12, "no 4K pages")?;
    check(dart.read(PARAMS2) & 1 == 0, "bypass is offered")
}

/// Four pages from four places in one granule, and three more behind them: a copy that crosses all
/// their boundaries.
pub(super) fn linux(dart: Dart) -> Check {
    asks_for_4k(dart)?;
    dart.reset()?;
    let (root, leaves) = tables(0);
    attach(dart, 1, root);
    dart.flush(2)?;
    check(!dart.copy(1, IOVA, IOVA + 0x4000, 8)?, "DMA where nothing is mapped")?;
    let error = dart.read(ERROR);
    check(error >> 31 == 1 && error >> 24 & 0xf == 1, "no fault, or another stream's")?;
    check(dart.read(ERROR_IOVA) == IOVA as u32, "another IOVA's fault")?;
    dart.write(ERROR, error);
    check(dart.read(ERROR) >> 31 == 0, "the fault stays")?;

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
    // The page behind is in the same granule: the access faults, or reaches no byte of the guest.
    dart.copy(1, IOVA + 0x4000, IOVA + 0x7000, 4)?;
    dart.clear_error();

    for index in 0..7 {
        set(leaves, IOVA + index * 4096, 0);
    }
    dart.flush(2)?;
    check(!dart.copy(1, IOVA, IOVA + 0x4000, 4)?, "DMA after unmapping")?;
    dart.clear_error();
    check(
        is_filled(sources[0], 0x100, 4096) && is_filled(targets[2], 0x777, 4096),
        "memory after unmapping",
    )
}

/// Accesses to the other three slots of a granule fault, as with a 4K DART, although the hardware's
/// page covers them.
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
    // The first and the last word of each: a window may be off by one.
    for beside in [0, 0x2000, 0x3000].into_iter().flat_map(|slot| [slot, slot + 0xffc]) {
        refuses(dart, IOVA + 0x8000, IOVA + beside, "a device writes beside the page")?;
        refuses(dart, IOVA + beside, IOVA + 0x8000, "a device reads beside the page")?;
    }
    check(dart.copy(1, IOVA + 0x1000, IOVA + 0x8000, 4096)?, "the page itself is refused")?;
    check(is_filled(witness, 1, 4096), "the page itself holds other bytes")?;
    check(is_filled(neighbour, 2, 4096), "a device wrote a page that is not mapped")?;
    check(is_filled(own, 1, 4096), "the page itself was written")
}

/// A run of pages is accessed at home; then a page from elsewhere is mapped beside it while devices
/// use the run, and unmapped again.
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
    refuses(dart, IOVA + 0x3000, IOVA + 0x8000, "a device reads an unmapped page")?;
    (0..3).for_each(|index| set(leaves, IOVA + index * 4096, 0));
    dart.flush(2)?;
    check(
        is_filled(first + 0x1000, 0x10, 4096) && is_filled(other, 0x20, 4096),
        "memory after unmapping",
    )
}

/// A copy must be refused, and the DART must latch the error.
fn refuses(dart: Dart, from: u64, to: u64, reason: &'static str) -> Check {
    check(!dart.copy(1, from, to, 4096)?, reason)?;
    let error = dart.read(ERROR);
    let at = u64::from(dart.read(ERROR_IOVA));
    check(error >> 31 == 1 && (at == from || at == to), "no fault, or another one")?;
    dart.write(ERROR, error);
    Ok(())
}

/// As OpenBSD: 16 KiB tables, a mapping of part of a page with a window (in units of four bytes),
/// bit 1 clear.
fn openbsd(dart: Dart) -> Check {
    let [root, leaves, source, target] = [0, 4, 8, 12].map(page);
    let iova = 0x4000_0000_u64;
    tables_16k(root, leaves, iova, 3);
    let leaf = leaf_16k(leaves, iova);
    // Bytes 0x1234 to 0x2abc of the page.
    let window = |address: u64| (0x1234_u64 / 4) << 52 | (0x2abc_u64 / 4 - 1) << 40 | address | 1;
    let whole = |address: u64| 0xfff << 40 | address | 1;
    store(leaf, window(source));
    store(leaf + 8, whole(target));
    fill_16k(source, 0x50);
    fill_16k(target, 0x60);
    dart.attach(1, &[root]);
    dart.flush(0xffff)?;
    check(load(leaf) == window(source), "an entry was changed")?;
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
        check(dart.read(ERROR) == 1 << 31 | 1 << 24 | 1 << 7, "another error, or none")?;
        check(u64::from(dart.read(ERROR_IOVA)) == iova + outside, "another IOVA's error")?;
        dart.clear_error();
    }
    registers::hand_off(dart)
}

/// As Linux 6.1 suspends and resumes: it saves every TCR and TTBR, and restores them after a reset,
/// without a flush.
fn resume(dart: Dart) -> Check {
    let (root, leaves) = tables(0);
    dart.reset()?;
    let [source, target] = [40, 45].map(page);
    fill(source, 9);
    set(leaves, IOVA, source | READ_ONLY);
    set(leaves, IOVA + 0x1000, target | READ_WRITE);
    attach(dart, 1, root);
    dart.flush(2)?;
    let saved_tcr = dart.read(tcr(1));
    let saved_ttbrs = [0, 1, 2, 3].map(|index| dart.read(ttbr(1, index)));
    check(
        saved_tcr == TRANSLATE && saved_ttbrs[0] == ttbr_of(root),
        "a register reads back as something else",
    )?;
    dart.power_cycle()?;
    dart.reset()?;
    for (index, value) in (0..).zip(saved_ttbrs) {
        dart.write(ttbr(1, index), value);
    }
    dart.write(tcr(1), saved_tcr);
    check(dart.copy(1, IOVA, IOVA + 0x1000, 4096)?, "DMA after resume was refused")?;
    check(is_filled(target, 9, 4096), "DMA after resume went elsewhere")
}

/// Stream 0 of one DART and stream 1 of another share a table, as a USB controller's do.
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
    // As Linux, flush both.
    USB_0.flush(1)?;
    USB_1.flush(2)?;
    check(USB_0.copy(0, IOVA, IOVA + 0x1000, 4096)?, "the first DART refuses")?;
    check(USB_1.copy(1, IOVA + 0x1000, IOVA + 0x2000, 4096)?, "the second DART refuses")?;
    check(is_filled(first, 5, 4096) && is_filled(second, 5, 4096), "the bytes are others")?;
    check(!USB_1.copy(0, IOVA, IOVA + 0x1000, 4)?, "a stream without a table")?;
    USB_1.clear_error();
    (0..3).for_each(|index| set(leaves, IOVA + index * 4096, 0));
    USB_0.flush(1)?;
    USB_1.flush(2)?;
    check(!USB_1.copy(1, IOVA, IOVA + 0x1000, 4)?, "DMA after unmapping")?;
    USB_1.clear_error();
    Ok(())
}

/// U-Boot never asks for the page size, has 16 KiB tables, and hands over zeros. Then Linux asks.
/// What `oche.darts` leaves: `is_filtered` where another DART is emulated.
pub(super) fn not_chosen(dart: Dart, is_filtered: bool) -> Check {
    let shift = if is_filtered { 15 } else { 14 };
    uboot(dart, shift)?;
    let has_bypass = dart.read(PARAMS2) & 1 == 1;
    check(has_bypass != is_filtered, "the hardware's bypass support")
}

/// 16K tables and DMA through them, and a driver that ends. `shift` is the page size that it reads.
fn uboot(dart: Dart, shift: u32) -> Check {
    // 16 KiB each: a first level, a leaf table, source and target.
    let [root, leaves, source, target] = [0, 4, 8, 12].map(page);
    let iova = 0x4000_0000_u64;
    tables_16k(root, leaves, iova, 3);
    store(leaf_16k(leaves, iova), source | READ_WRITE);
    store(leaf_16k(leaves, iova) + 8, target | READ_WRITE);
    fill_16k(source, 0x30);
    check(dart.read(PARAMS2) & 1 == 1, "the hardware's bypass support is hidden")?;
    dart.attach(1, &[root]);
    check(dart.read(ttbr(1, 0)) == ttbr_of(root), "a TTBR reads back as something else")?;
    dart.flush(0xffff)?;
    check(page_shift(dart) == shift, "another page size while 16K tables are in use")?;
    check(dart.copy(1, iova, iova + 0x4000, 0x4000)?, "16K tables are refused")?;
    check(is_filled_16k(target, 0x30), "16K DMA went elsewhere")?;
    registers::hand_off(dart)
}

fn uboot_then_linux(dart: Dart) -> Check {
    uboot(dart, 14)?;
    linux(dart)
}

/// The emulation only reads a locked DART: its registers are as iBoot left them.
fn locked() -> Check {
    check(DISPLAY.read(CONFIG) & 1 << 15 != 0, "it is not locked")?;
    check(
        DISPLAY.read(tcr(0)) == TRANSLATE && DISPLAY.read(ttbr(0, 0)) == 0x8080_1234,
        "a register has changed",
    )?;
    check(page_shift(DISPLAY) == 14, "it is not the hardware that answers")?;
    // Nothing else wrote memory either.
    check(load(page(63)) == 0, "an unused page was written")
}

/// The page size in `PARAMS1`, as a power of two.
pub(super) fn page_shift(dart: Dart) -> u32 {
    dart.read(PARAMS1) >> 24 & 0xf
}
