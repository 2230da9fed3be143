//! The NVMe, an untranslated bus master, reads and writes pages that a DART maps at the same time.

use oche_guest_common::exception::attempt;
use oche_guest_common::{CaseReport, Check, check};

use super::arena::{fill, is_filled, load, page, store};
use super::board::{NVME, PCIE_0, POWER_ANS2, POWER_UART0};
use super::dart::Dart;
use super::tables::{IOVA, READ_WRITE, attach, set, tables};

// Registers. Source: NVM Express Base Specification 1.4, 3.1; the doorbells are Apple's.
const CONFIGURATION: u64 = 0x14;
const ADMIN_QUEUE_SIZES: u64 = 0x24;
const ADMIN_SUBMISSION_QUEUE: u64 = 0x28;
const ADMIN_COMPLETION_QUEUE: u64 = 0x30;
const ADMIN_DOORBELL: u64 = 0x2_490c;
const IO_DOORBELL: u64 = 0x2_4910;
const READ: u64 = 2;
const WRITE: u64 = 1;
const FLUSH: u64 = 0;
/// Added to a block number: the board carries out the command with the next flush.
const DELAYED: u64 = 1 << 32;
const MAX_POLLS: u32 = 50_000_000;

/// Pages of the arena: the admin queues, the I/O queues, a list of pages.
const QUEUES: [usize; 5] = [56, 57, 60, 61, 63];

pub(super) fn run(report: &mut CaseReport) {
    report.case(format_args!("an NVMe without power"), without_power());
    report.case(format_args!("EL2 logs nothing while the serial port has no power"), silent_log());
    report.case(format_args!("nvme: doorbells of invalid queues are dropped"), wild_queues());
    report.case(format_args!("nvme: a disk reads and writes pages that a DART maps"), disk(PCIE_0));
}

/// Waits until completion `index` of the queue in page `queue` has come.
fn completed(queue: usize, index: u64, phase: u32) -> Check {
    let at = page(queue) + index * 16 + 8;
    check(
        (0..MAX_POLLS).any(|_| load(at) >> 48 & 1 == u64::from(phase)),
        "the controller does not answer",
    )
}

fn admin(number: u64, words: [u64; 7]) -> Check {
    words.into_iter().enumerate().for_each(|(index, word)| {
        store(page(QUEUES[0]) + number * 64 + index as u64 * 8, word);
    });
    NVME.write(ADMIN_DOORBELL, number as u32);
    completed(QUEUES[1], number, 1)
}

/// Submits command `number`, and does not wait.
fn submit(number: u64, opcode: u64, pages: &[u64], block: u64) {
    let list = page(QUEUES[4]);
    let second = match pages {
        [] | [_] => 0,
        [_, second] => *second,
        [_, rest @ ..] => {
            rest.iter().enumerate().for_each(|(index, page)| store(list + index as u64 * 8, *page));
            list
        }
    };
    let blocks = (pages.len() as u64).saturating_sub(1);
    let first = pages.first().copied().unwrap_or(0);
    let words = [opcode | (0x100 + number) << 16, 0, 0, first, second, block, blocks];
    words.into_iter().enumerate().for_each(|(index, word)| {
        store(page(QUEUES[2]) + number * 64 + index as u64 * 8, word);
    });
    NVME.write(IO_DOORBELL, number as u32);
}

fn command(number: u64, opcode: u64, pages: &[u64], block: u64) -> Check {
    submit(number, opcode, pages, block);
    completed(QUEUES[3], number, 1)
}

fn set_up() -> Check {
    for queue in QUEUES {
        (0..512).for_each(|word| store(page(queue) + word * 8, 0));
    }
    NVME.write(CONFIGURATION, 0);
    NVME.write(ADMIN_QUEUE_SIZES, 1 << 16 | 1);
    for (offset, queue) in
        [(ADMIN_SUBMISSION_QUEUE, QUEUES[0]), (ADMIN_COMPLETION_QUEUE, QUEUES[1])]
    {
        NVME.write(offset, page(queue) as u32);
        NVME.write(offset + 4, (page(queue) >> 32) as u32);
    }
    NVME.write(CONFIGURATION, 1);
    check(
        u64::from(NVME.read(ADMIN_SUBMISSION_QUEUE)) == page(QUEUES[0]) & 0xffff_ffff,
        "a register reads back as something else",
    )?;
    // 64 entries each, in pages that follow each other.
    let size = 1 << 32 | 63 << 16 | 1;
    admin(0, [5, 0, 0, page(QUEUES[3]), 0, size, 0])?;
    admin(1, [1 << 16 | 1, 0, 0, page(QUEUES[2]), 0, size, 0])
}

/// Accesses of the guest abort, and EL2 makes none.
fn without_power() -> Check {
    let before = POWER_ANS2.read(0);
    POWER_ANS2.write(0, 0);
    let load = attempt(|| _ = NVME.read(0));
    let store = attempt(|| NVME.write(IO_DOORBELL, 0));
    POWER_ANS2.write(0, before);
    let loads = load.is_some_and(|one| one.is_external_abort_at(NVME.base, false));
    let doorbell = NVME.base + IO_DOORBELL;
    let stores = store.is_some_and(|one| one.is_external_abort_at(doorbell, true));
    check(before >> 4 & 0xf == 0xf, "it had no power before")?;
    check(loads, "a load does not abort")?;
    check(stores, "a store does not abort")
}

/// EL2 would log that it drops a doorbell, but the serial port has no power. The board detects an
/// access.
fn silent_log() -> Check {
    let before = POWER_UART0.read(0);
    POWER_UART0.write(0, 0);
    NVME.write(IO_DOORBELL, 0);
    POWER_UART0.write(0, before);
    check(before >> 4 & 0xf == 0xf, "it had no power before")
}

/// Queues at invalid addresses, and entries beyond a queue: their doorbells do not reach the
/// controller.
fn wild_queues() -> Check {
    for base in [0xffff_ffff_ffff_fff8, 0xffff_ffff_ffff_f000, 8, page(QUEUES[0]) + 8, NVME.base] {
        NVME.write(CONFIGURATION, 0);
        NVME.write(ADMIN_QUEUE_SIZES, 0x3f_003f);
        for offset in [ADMIN_SUBMISSION_QUEUE, ADMIN_COMPLETION_QUEUE] {
            NVME.write(offset, base as u32);
            NVME.write(offset + 4, (base >> 32) as u32);
        }
        NVME.write(CONFIGURATION, 1);
        for number in [0, 1, 63, 64, u32::MAX] {
            NVME.write(ADMIN_DOORBELL, number);
            NVME.write(IO_DOORBELL, number);
        }
    }
    Ok(())
}

/// Pages of the arena for [`disk`]: three that are mapped in its first phase, one that no DART
/// maps, and one that is mapped while the disk writes it.
struct DiskPages {
    source: u64,
    mapped: u64,
    target: u64,
    other: u64,
    late: u64,
}

fn disk(dart: Dart) -> Check {
    set_up()?;
    let (root, leaves) = tables(0);
    dart.reset()?;
    let [source, mapped, other, target, late] = [11, 22, 33, 44, 51].map(page);
    let pages = DiskPages { source, mapped, target, other, late };
    fill(source, 1);
    for (index, place) in (0..).zip([source, mapped, target]) {
        set(leaves, IOVA + index * 4096, place | READ_WRITE);
    }
    attach(dart, 1, root);
    dart.flush(2)?;
    memory_to_disk(dart, &pages)?;
    disk_to_memory(dart, &pages)?;
    mapped_during_dma(dart, leaves, &pages)?;
    unmapped(dart, leaves, &pages)
}

/// A page that is away, with bytes that a device wrote just before, in a command of three pages.
fn memory_to_disk(dart: Dart, pages: &DiskPages) -> Check {
    let &DiskPages { mapped, other, .. } = pages;
    check(dart.copy(1, IOVA, IOVA + 0x1000, 4096)?, "a mapped copy was refused")?;
    fill(other, 2);
    command(0, WRITE, &[mapped, other, mapped], 10)?;
    // Read back into a page that no DART maps.
    command(1, READ, &[other], 10)?;
    check(is_filled(other, 1, 4096), "the disk has other bytes than the device wrote")?;
    command(2, READ, &[other], 11)?;
    check(is_filled(other, 2, 4096), "the disk has other bytes in its second block")
}

/// Into a page that is away: the CPU reads it, and the device behind the DART.
fn disk_to_memory(dart: Dart, pages: &DiskPages) -> Check {
    let &DiskPages { mapped, target, .. } = pages;
    command(3, READ, &[target], 11)?;
    check(is_filled(target, 2, 4096), "the CPU reads something else than the disk wrote")?;
    check(dart.copy(1, IOVA + 0x2000, IOVA + 0x1000, 4096)?, "a page that came home is refused")?;
    check(is_filled(mapped, 2, 4096), "the device reads something else than the disk wrote")
}

/// A page that is mapped while the disk writes it.
fn mapped_during_dma(dart: Dart, leaves: u64, pages: &DiskPages) -> Check {
    let &DiskPages { source, other, late, .. } = pages;
    fill(late, 3);
    submit(4, READ, &[late], 11 + DELAYED);
    set(leaves, IOVA + 0x3000, late | READ_WRITE);
    dart.flush(2)?;
    check(dart.copy(1, IOVA + 0x3000, IOVA, 2048)?, "a pinned page is refused")?;
    check(is_filled(source, 3, 2048), "a pinned page is elsewhere")?;
    command(5, FLUSH, &[], 0)?;
    dart.flush(2)?;
    check(dart.copy(1, IOVA + 0x3000, IOVA, 4096)?, "the page is refused")?;
    check(
        is_filled(source, 2, 4096) && is_filled(late, 2, 4096),
        "what the disk wrote late was lost",
    )?;
    // What the device writes now goes to the disk.
    check(dart.copy(1, IOVA, IOVA + 0x3000, 4096)?, "a second copy was refused")?;
    fill(source, 5);
    check(dart.copy(1, IOVA, IOVA + 0x3000, 4096)?, "a third copy was refused")?;
    command(6, WRITE, &[late], 20)?;
    command(7, READ, &[other], 20)?;
    check(is_filled(other, 5, 4096), "the disk has other bytes than the device wrote last")
}

/// All pages are home, where the disk finds them.
fn unmapped(dart: Dart, leaves: u64, pages: &DiskPages) -> Check {
    let &DiskPages { source, mapped, target, other, late } = pages;
    (0..4).for_each(|index| set(leaves, IOVA + index * 4096, 0));
    dart.flush(2)?;
    for (place, seed) in [(source, 5), (mapped, 2), (target, 2), (late, 5)] {
        check(is_filled(place, seed, 4096), "memory after unmapping")?;
    }
    command(8, WRITE, &[late], 30)?;
    command(9, READ, &[other], 30)?;
    check(is_filled(other, 5, 4096), "a page is not home after unmapping")
}

/// Flushes after which a DART's tables that nothing changes are write-protected.
const QUIET_FLUSHES: usize = 400;

/// The disk writes into a table that CPUs' stores trap at: the next flush finds what it wrote.
/// After [`run`], whose queues and first ten commands it goes on from.
pub(super) fn quiet_table(report: &mut CaseReport) {
    report.case(
        format_args!("nvme: a disk writes into a DART's table that is quiet"),
        disk_writes_table(PCIE_0),
    );
}

fn disk_writes_table(dart: Dart) -> Check {
    let (root, leaves) = tables(0);
    dart.reset()?;
    let [image, first, second] = [11, 22, 33].map(page);
    set(leaves, IOVA, first | READ_WRITE);
    (0..512).for_each(|word| store(image + word * 8, load(leaves + word * 8)));
    set(image, IOVA + 0x1000, second | READ_WRITE);
    fill(second, 6);
    attach(dart, 1, root);
    (0..QUIET_FLUSHES).try_for_each(|_| dart.flush(2))?;
    command(10, WRITE, &[image], 40)?;
    command(11, READ, &[leaves], 40)?;
    dart.flush(2)?;
    check(
        dart.copy(1, IOVA + 0x1000, IOVA, 4096)?,
        "what the disk wrote into the table is not mapped",
    )?;
    check(is_filled(first, 6, 4096), "it is mapped to another page")?;
    (0..2).for_each(|index| set(leaves, IOVA + index * 4096, 0));
    dart.flush(2)
}
