//! What one trap may do, in bytes of memory that the engine loads or stores.
//!
//! A mapping costs what it copies and compares: a page of which a thousand copies exist costs a
//! thousand times as much as one that has none. So work is charged in bytes, before it is done and
//! rather too much than too little.

/// Bytes that one trap may load and store before it leaves the rest to the next poll: as many as it
/// takes to map nearly 16 MiB, so that the first poll mostly finds the DART idle; on an M1 it is
/// one or two milliseconds.
///
/// A trap exceeds it by one change of a granule, and by the empty shadow tables of the domains that
/// it takes back for it.
pub const SLICE_BYTES: usize = 64 << 20;

/// What is left of one trap's work.
#[derive(Debug)]
pub struct Budget {
    /// Below 0: more was charged than there was.
    left: isize,
}

impl Budget {
    /// All of one trap's work.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { left: bytes as isize }
    }

    /// Work of `bytes` bytes is about to be done.
    pub(crate) fn charge(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub_unsigned(bytes);
    }

    /// Of the work that was charged, `bytes` bytes were not done.
    pub(crate) fn refund(&mut self, bytes: usize) {
        self.left = self.left.saturating_add_unsigned(bytes);
    }

    /// Whether work of `bytes` bytes fits into what is left.
    pub(crate) fn allows(&self, bytes: usize) -> bool {
        bytes <= self.left.max(0).unsigned_abs()
    }

    /// How often work of `bytes` bytes fits into what is left.
    pub(crate) fn affords(&self, bytes: usize) -> usize {
        self.left.max(0).unsigned_abs() / bytes
    }

    /// Whether nothing is left.
    pub(crate) fn is_spent(&self) -> bool {
        self.left <= 0
    }
}
