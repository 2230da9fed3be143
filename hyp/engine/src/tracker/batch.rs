//! What a comparison has found, to be applied together.

use alloc::vec::Vec;

use oche_types::addr::{Gfn, IovaPage};
use oche_types::event::Refusal;

use crate::budget::Budget;
use crate::granule::{BATCH, Change};
use crate::heap::bytes_of;
use crate::host::DomainId;
use crate::mover::Mover;

/// A table that cannot be tracked, to be reported as a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RejectedTable {
    /// The first page of IOVAs that the table would map.
    pub(crate) iova: IovaPage,
    /// The page in the guest's TTBR or first-level entry.
    pub(crate) page: Gfn,
    pub(crate) reason: Refusal,
}

/// The result of one round of comparison. It names each granule at most once.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) changes: Vec<Change>,
    pub(crate) rejected: Vec<RejectedTable>,
    /// Whether tables are being drained into the batch. The tables that replace them map the same
    /// granules, so nothing else may be added.
    pub(super) is_draining: bool,
    /// Whether nothing more may be added.
    pub(super) is_sealed: bool,
}

impl Batch {
    /// Bytes of heap that [`Self::new`] takes.
    pub(crate) const BYTES: usize = bytes_of::<Change>(BATCH) + bytes_of::<RejectedTable>(BATCH);

    pub(crate) fn new() -> Self {
        Self {
            changes: Vec::with_capacity(BATCH),
            rejected: Vec::with_capacity(BATCH),
            is_draining: false,
            is_sealed: false,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.changes.clear();
        self.rejected.clear();
        self.is_draining = false;
        self.is_sealed = false;
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_sealed || self.changes.len() >= BATCH || self.rejected.len() >= BATCH
    }
}

/// What a comparison of a first-level table works with.
pub(super) struct Pass<'a, H> {
    pub(super) host: &'a mut H,
    pub(super) mover: &'a mut Mover,
    pub(super) domain: DomainId,
    pub(super) batch: &'a mut Batch,
    pub(super) budget: &'a mut Budget,
}
