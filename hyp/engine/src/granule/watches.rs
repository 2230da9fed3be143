//! The watched ranges, and the progress of a pass that traps the pages in them.

use alloc::vec::Vec;
use core::ops::Range;

use oche_types::addr::Granule;
use oche_types::selection::{MAX_WATCHES, Selection};

use crate::heap::bytes_of;

/// The watched ranges.
#[derive(Debug)]
pub(crate) struct Watches {
    pub(super) ranges: Vec<Selection>,
    /// The pass under way, if some mapped pages are still to be trapped. The next exit continues
    /// it.
    pub(super) pass: Option<Pass>,
}

/// A pass over the pages that are mapped in watched ranges.
#[derive(Debug)]
pub(super) struct Pass {
    /// The domains that are left; the pass is in the first of them.
    pub(super) domains: Range<usize>,
    /// Index of the watched range.
    pub(super) watch: usize,
    /// The next granule, or `None` at the start of the range.
    pub(super) next: Option<Granule>,
}

impl Pass {
    /// Moves on to the next of `watches` ranges, or to the first range of the next domain. Returns
    /// `None` at the end.
    pub(super) fn skip(mut self, watches: usize) -> Option<Self> {
        self.next = None;
        self.watch += 1;
        if self.watch >= watches {
            self.watch = 0;
            self.domains.start += 1;
        }
        (!self.domains.is_empty()).then_some(self)
    }
}

impl Watches {
    /// Creates an empty set of ranges.
    pub(crate) fn new() -> Self {
        Self { ranges: Vec::with_capacity(MAX_WATCHES), pass: None }
    }

    /// Bytes of heap that [`Self::new`] takes.
    pub(crate) const BYTES: usize = bytes_of::<Selection>(MAX_WATCHES);

    /// Whether anything is watched.
    pub(crate) fn are_set(&self) -> bool {
        !self.ranges.is_empty()
    }

    /// Whether some mapped pages in watched ranges are not trapped yet.
    pub(crate) fn are_pending(&self) -> bool {
        self.pass.is_some()
    }
}
