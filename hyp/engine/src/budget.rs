//! The budget of one trap, in bytes of memory that the engine loads or stores.
//!
//! The cost of a mapping is what it copies and compares: a page with a thousand copies costs a
//! thousand times as much as a page without any. Work is therefore charged in bytes, before it is
//! done. An estimate is never too low.

/// Bytes that one trap may load and store before it leaves the rest to the next poll. It is enough
/// to map nearly 8 MiB, so that the first poll usually finds the DART idle: Linux 6.1 polls for
/// 100 us and once more, so that a command may take three slices (`apple-dart.c`,
/// `apple_dart_hw_stream_command`; `include/linux/iopoll.h`).
///
/// A trap can exceed it by the cost of the empty shadow tables that it reclaims for a change, and
/// by that of a page whose copies a flush makes equal. One granule whose pages all have copies can
/// cost as much as a slice. Such a change begins where it fits, or while a quarter is spent at
/// most.
pub const SLICE_BYTES: usize = 32 << 20;

/// What is left of one trap's work.
#[derive(Debug)]
pub struct Budget {
    /// In bytes. Negative if more was charged than was left.
    left: isize,
    /// What it began with.
    whole: isize,
}

impl Budget {
    /// A budget of `bytes` bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { left: bytes as isize, whole: bytes as isize }
    }

    /// Charges work of `bytes` bytes, before it is done.
    pub(crate) fn charge(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub_unsigned(bytes);
    }

    /// Whether nothing is charged yet.
    pub(crate) fn is_whole(&self) -> bool {
        self.left == self.whole
    }

    /// Whether work that is done as a whole, of `bytes` bytes at worst, may begin: it fits into
    /// what is left, or at least three quarters of the budget are left.
    pub(crate) fn admits(&self, bytes: usize) -> bool {
        self.allows(bytes) || self.left >= self.whole / 4 * 3
    }

    /// Ends the trap's work: what comes next does not fit into what is left.
    pub(crate) fn end(&mut self) {
        self.left = self.left.min(0);
    }

    /// Returns `bytes` bytes that were charged for work that was not needed.
    pub(crate) fn refund(&mut self, bytes: usize) {
        self.left = self.left.saturating_add_unsigned(bytes);
    }

    /// Whether work of `bytes` bytes fits into what is left.
    pub(crate) fn allows(&self, bytes: usize) -> bool {
        bytes <= self.left.max(0).unsigned_abs()
    }

    /// How many times work of `bytes` bytes fits into what is left.
    pub(crate) fn affords(&self, bytes: usize) -> usize {
        self.left.max(0).unsigned_abs() / bytes
    }

    /// Whether nothing is left.
    pub(crate) fn is_spent(&self) -> bool {
        self.left <= 0
    }
}
