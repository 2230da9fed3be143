//! What is watched, and how far a pass through it has come.

use alloc::vec::Vec;
use core::ops::Range;

use oche_types::addr::Granule;
use oche_types::selection::{MAX_WATCHES, Selection};

use crate::heap::bytes_of;

/// What is watched.
#[derive(Debug)]
pub(crate) struct Watches {
    pub(super) ranges: Vec<Selection>,
    /// What is mapped is still to be trapped: the next exit goes on here.
    pub(super) pass: Option<Pass>,
}

/// A walk through what is mapped where somebody watches.
#[derive(Debug)]
pub(super) struct Pass {
    /// The first is looked at, at `watch`, from the granule `next` on, or from the watch's first.
    pub(super) domains: Range<usize>,
    pub(super) watch: usize,
    pub(super) next: Option<Granule>,
}

impl Pass {
    /// Goes on to the next of `watches` watches, or to the first of the next domain.
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
    /// Nothing is watched.
    pub(crate) fn new() -> Self {
        Self { ranges: Vec::with_capacity(MAX_WATCHES), pass: None }
    }

    /// Bytes of heap that they take.
    pub(crate) const BYTES: usize = bytes_of::<Selection>(MAX_WATCHES);

    /// Whether anything is.
    pub(crate) fn are_set(&self) -> bool {
        !self.ranges.is_empty()
    }

    /// Whether something that is mapped is not trapped yet.
    pub(crate) fn are_pending(&self) -> bool {
        self.pass.is_some()
    }
}
