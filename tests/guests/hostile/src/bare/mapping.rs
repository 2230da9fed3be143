//! A driver for DART 0, as small as can be: one table, and a flush for each change.

use super::Pages;
use super::access::DART;

/// The latched fault; writing ones clears it.
pub(super) const ERROR: u64 = 0x40;
const ENABLE: u64 = 0xfc;
const TCR: u64 = 0x100;
const TTBR: u64 = 0x200;
pub(super) const SELECT: u64 = 0x34;
pub(super) const COMMAND: u64 = 0x20;
pub(super) const INVALIDATE: u32 = 1 << 20;
pub(super) const BUSY: u32 = 1 << 2;

static FIRST: Pages<1> = Pages::new();
static LEAVES: Pages<1> = Pages::new();

/// What the device may do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    Read,
    ReadWrite,
}

/// Points `stream` at this guest's tables.
pub(super) fn begin(stream: u64) {
    FIRST.set_word(0, LEAVES.address() | 1);
    write(ENABLE, 0xffff);
    write(TTBR + 16 * stream, 1 << 31 | (FIRST.address() >> 12) as u32);
    write(TCR + 4 * stream, 1 << 7);
    flush(stream);
}

/// Points `stream` at a table at `page`, wherever that is.
pub(super) fn root(stream: u64, page: u64) {
    write(TTBR + 16 * stream, 1 << 31 | page as u32 & 0xff_ffff);
    flush(stream);
}

/// Sets an entry of the first level.
pub(super) fn set_first(index: usize, entry: u64) {
    FIRST.set_word(index, entry);
}

/// Sets an entry of the leaf table, without a flush.
pub(super) fn set_raw(iova: usize, entry: u64) {
    LEAVES.set_word(iova, entry);
}

/// Where the two tables are: the first level and the leaves.
pub(super) fn tables() -> [u64; 2] {
    [FIRST.address(), LEAVES.address()]
}

/// Stops the stream.
pub(super) fn end(stream: u64) {
    write(TCR + 4 * stream, 0);
    flush(stream);
}

/// Maps the page at `address` at page `iova` (below 512), or nothing there, and flushes.
pub(super) fn set(stream: u64, iova: usize, page: Option<(u64, Rights)>) {
    // Valid, no sub-page window; NO_WRITE.
    let entry = page.map_or(0, |(address, rights)| {
        address | 3 | if rights == Rights::Read { 1 << 7 } else { 0 }
    });
    LEAVES.set_word(iova, entry);
    flush(stream);
}

/// Has the DART look at the stream's tables.
pub(super) fn flush(stream: u64) {
    write(SELECT, 1 << stream);
    write(COMMAND, INVALIDATE);
    while read(COMMAND) & BUSY != 0 {}
}

/// A register of DART 0.
pub(super) fn read(offset: u64) -> u32 {
    // SAFETY: a register of the DART.
    unsafe { ((DART + offset) as *const u32).read_volatile() }
}

/// Writes a register of DART 0.
pub(super) fn write(offset: u64, value: u32) {
    // SAFETY: as for `read`.
    unsafe { ((DART + offset) as *mut u32).write_volatile(value) };
}
