//! Translation tables in the arena: Linux's with 4 KiB pages, and those with 16 KiB pages.

use super::arena::{page, store};
use super::dart::Dart;

/// Where Linux puts the first mapping.
pub(super) const IOVA: u64 = 0xffff_0000;
/// A leaf entry as Linux writes it: valid, window off, to its end.
pub(super) const READ_WRITE: u64 = 0xfff << 40 | 3;
/// The same of a page that the device only reads.
pub(super) const READ_ONLY: u64 = READ_WRITE | 1 << 7;

/// A first-level and a leaf table for [`IOVA`], from two pages of the arena.
pub(super) fn tables(first: usize) -> (u64, u64) {
    let (root, leaves) = (page(first), page(first + 1));
    clear(root, 512);
    clear(leaves, 512);
    store(root + (IOVA >> 21 & 0x1ff) * 8, leaves | 1);
    (root, leaves)
}

/// Sets the leaf entry of `iova`.
pub(super) fn set(leaves: u64, iova: u64, entry: u64) {
    store(leaves + (iova >> 12 & 0x1ff) * 8, entry);
}

/// Attaches `stream` to tables of which [`IOVA`] selects `root`.
pub(super) fn attach(dart: Dart, stream: u64, root: u64) {
    dart.attach(stream, &[root, root, root, root]);
}

/// Makes tables of 16 KiB at `root` and `leaves`, in which `iova`'s first-level entry leads to
/// `leaves` with the bits `valid`.
pub(super) fn tables_16k(root: u64, leaves: u64, iova: u64, valid: u64) {
    clear(root, 2048);
    clear(leaves, 2048);
    store(root + (iova >> 25 & 0x7ff) * 8, leaves | valid);
}

/// The address of `iova`'s entry in a leaf table of 16 KiB.
pub(super) fn leaf_16k(leaves: u64, iova: u64) -> u64 {
    leaves + (iova >> 14 & 0x7ff) * 8
}

fn clear(table: u64, entries: u64) {
    (0..entries).for_each(|entry| store(table + entry * 8, 0));
}
