//! A minimal driver for DART 0: one leaf table, and a flush for each change.

use oche_guest_common::mmio::RegisterBlock;
use oche_guest_common::{Check, Pages, check};

use super::board::DART;

const REGISTERS: RegisterBlock = RegisterBlock::new(DART);
/// The latched fault; writing ones clears it.
const ERROR: u64 = 0x40;
const ENABLE: u64 = 0xfc;
const TCR: u64 = 0x100;
const TTBR: u64 = 0x200;
pub(super) const SELECT: u64 = 0x34;
pub(super) const COMMAND: u64 = 0x20;
pub(super) const INVALIDATE: u32 = 1 << 20;
const BUSY: u32 = 1 << 2;
/// Polls in which a flush must end, and in which a fault must be latched.
pub(super) const MAX_POLLS: u32 = 100_000;

static FIRST: Pages<1> = Pages::new();
static LEAVES: Pages<1> = Pages::new();

/// How the device may access a page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    Read,
    ReadWrite,
}

/// Attaches `stream` to this guest's tables.
pub(super) fn begin(stream: u64) {
    FIRST.set_word(0, LEAVES.address() | 1);
    write(ENABLE, 0xffff);
    write(TTBR + 16 * stream, 1 << 31 | (FIRST.address() >> 12) as u32);
    write(TCR + 4 * stream, 1 << 7);
    flush(stream);
}

/// Attaches `stream` to a first level at page number `page`, wherever that is.
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

/// The addresses of the first level and the leaf table.
pub(super) fn tables() -> [u64; 2] {
    [FIRST.address(), LEAVES.address()]
}

/// Detaches the stream.
pub(super) fn end(stream: u64) {
    write(TCR + 4 * stream, 0);
    flush(stream);
}

/// Maps a page at IOVA page `iova` (below 512), or unmaps what is there, and flushes.
pub(super) fn set(stream: u64, iova: usize, page: Option<(u64, Rights)>) {
    LEAVES.set_word(iova, page.map_or(0, |(address, rights)| leaf(address, rights)));
    flush(stream);
}

/// The leaf entry that maps the page at `address`: valid, no sub-page window; NO_WRITE.
pub(super) fn leaf(address: u64, rights: Rights) -> u64 {
    address | 3 | if rights == Rights::Read { 1 << 7 } else { 0 }
}

/// Flushes the stream, and waits for ever.
pub(super) fn flush(stream: u64) {
    start_flush(stream);
    while is_busy() {}
}

/// Flushes the stream, which must end within [`MAX_POLLS`].
pub(super) fn bounded_flush(stream: u64) -> Check {
    start_flush(stream);
    check((0..MAX_POLLS).any(|_| !is_busy()), "the flush does not end")
}

/// Flushes the stream, and does not wait.
pub(super) fn start_flush(stream: u64) {
    select(stream);
    write(COMMAND, INVALIDATE);
}

/// Selects the stream for commands.
pub(super) fn select(stream: u64) {
    write(SELECT, 1 << stream);
}

/// Whether a command is in progress.
pub(super) fn is_busy() -> bool {
    REGISTERS.read(COMMAND) & BUSY != 0
}

/// Whether a fault is latched.
pub(super) fn has_error() -> bool {
    REGISTERS.read(ERROR) >> 31 != 0
}

/// Clears the latched fault.
pub(super) fn clear_error() {
    write(ERROR, u32::MAX);
}

/// Writes a register of DART 0.
pub(super) fn write(offset: u64, value: u32) {
    REGISTERS.write(offset, value);
}
