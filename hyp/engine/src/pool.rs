//! The frame pool: the only host memory, besides guest RAM, that the engine gives to devices or
//! keeps bytes in.
//!
//! Invariant: every page of a free frame holds the red-zone pattern. Code that takes a frame to
//! relocate a granule finds its empty slots already marked, and a device that still wrote into a
//! frame after it was given back has left a trace that can be found.
//!
//! Until the hardware has confirmed every earlier unmapping, a frame that is given back is
//! *quarantined*: a device may still reach it, so it must not hold anything else, least of all a
//! table.

use alloc::vec::Vec;
use core::ops::Range;

use oche_types::addr::{Hfn, HostGranule, SLOTS};
use oche_types::{Invariant, invariant};

use crate::heap::bytes_of;
use crate::host::{Iommu, Memory};

/// What every word of an unused page holds. Not a likely pointer, count or text.
pub const RED_ZONE: u64 = 0x9e0c_4e5d_ead9_0c4e;

/// A fixed number of 16K frames.
#[derive(Debug)]
pub(crate) struct Pool {
    frames: Range<u32>,
    free: Vec<HostGranule>,
    /// Given back, but perhaps still reachable by a device.
    quarantined: Vec<HostGranule>,
    /// Per frame: bits of the pages handed out singly, in [`SINGLE`] frames.
    singles: Vec<u8>,
    /// Frames with a page to spare for [`Self::take_page`].
    partial: Vec<HostGranule>,
}

/// Marks a frame of which pages are handed out one by one.
const SINGLE: u8 = 0x80;
/// All pages of a frame.
const ALL_PAGES: u8 = (1 << SLOTS) - 1;

impl Pool {
    /// Takes possession of `frames` and marks them all.
    pub(crate) fn new(frames: Range<HostGranule>, memory: &mut impl Memory) -> Self {
        let frames = frames.start.0..frames.end.0.max(frames.start.0);
        let count = frames.len();
        let mut pool = Self {
            frames: frames.clone(),
            free: Vec::with_capacity(count),
            quarantined: Vec::with_capacity(count),
            singles: alloc::vec![0; count],
            partial: Vec::with_capacity(count),
        };
        for frame in frames.rev().map(HostGranule) {
            pool.free(memory, frame);
        }
        pool
    }

    /// Bytes of heap that [`Self::new`] takes for `frames` frames.
    pub(crate) const fn bytes(frames: usize) -> usize {
        // Free, quarantined and partial ones; and what is handed out of each.
        3 * bytes_of::<HostGranule>(frames) + bytes_of::<u8>(frames)
    }

    /// Whether `frame` is the pool's.
    pub(crate) fn owns(&self, frame: HostGranule) -> bool {
        self.frames.contains(&frame.0)
    }

    /// Frames that are free now.
    pub(crate) fn free_frames(&self) -> usize {
        self.free.len()
    }

    /// A frame whose pages all hold the red-zone pattern, or `None` when all are in use.
    pub(crate) fn take_frame(&mut self) -> Option<HostGranule> {
        self.free.pop().or_else(|| self.take_unused_partial())
    }

    /// Returns a frame whose pages all hold the red-zone pattern.
    pub(crate) fn give_marked_frame(
        &mut self,
        host: &mut (impl Memory + Iommu),
        frame: HostGranule,
    ) {
        if !host.is_confirmed() {
            return self.quarantine(frame);
        }
        host.release(frame);
        self.push(frame);
    }

    /// Marks a frame's pages and returns it.
    pub(crate) fn give_frame(&mut self, host: &mut (impl Memory + Iommu), frame: HostGranule) {
        if !host.is_confirmed() {
            return self.quarantine(frame);
        }
        self.free(host, frame);
    }

    /// Frees up to `max` of the quarantined frames, if no device can reach them any more. Returns
    /// how many were freed.
    pub(crate) fn release_quarantined(
        &mut self,
        host: &mut (impl Memory + Iommu),
        max: usize,
    ) -> usize {
        if self.quarantined.is_empty() || !host.is_confirmed() {
            return 0;
        }
        for count in 0..max {
            let Some(frame) = self.quarantined.pop() else { return count };
            self.free(host, frame);
        }
        max
    }

    fn quarantine(&mut self, frame: HostGranule) {
        let has_room = self.owns(frame) && self.quarantined.len() < self.frames.len();
        invariant!(has_room, "a frame that is given back is the pool's, and was in use");
        self.quarantined.push(frame);
    }

    fn free(&mut self, memory: &mut impl Memory, frame: HostGranule) {
        memory.release(frame);
        for slot in 0..SLOTS {
            memory.fill_page(frame.page(slot), RED_ZONE);
        }
        self.push(frame);
    }

    fn push(&mut self, frame: HostGranule) {
        invariant!(self.owns(frame), "a frame that comes back is the pool's: {frame:?}");
        invariant!(self.free.len() < self.frames.len(), "a frame comes back once");
        invariant!(
            *self.single(frame) == 0,
            "a frame that comes back has no pages handed out singly: {frame:?}"
        );
        self.free.push(frame);
    }

    /// A single page, or `None` when all frames are in use.
    pub(crate) fn take_page(&mut self) -> Option<Hfn> {
        let frame = match self.partial.last() {
            Some(frame) => *frame,
            None => {
                let frame = self.take_frame()?;
                *self.single(frame) = SINGLE;
                self.partial.push(frame);
                frame
            }
        };
        let used = self.single(frame);
        invariant!(
            *used & ALL_PAGES != ALL_PAGES,
            "a frame in the list of partial ones has a page to spare"
        );
        let slot = (!*used & ALL_PAGES).trailing_zeros() as usize;
        *used |= 1 << slot;
        if *used & ALL_PAGES == ALL_PAGES {
            self.partial.pop();
        }
        Some(frame.page(slot))
    }

    /// Marks a single page and returns it.
    pub(crate) fn give_page(&mut self, memory: &mut impl Memory, page: Hfn) {
        memory.fill_page(page, RED_ZONE);
        let frame = page.frame();
        let used = self.single(frame);
        let bit = 1 << (page.0 & 3);
        invariant!(
            *used & (SINGLE | bit) == SINGLE | bit,
            "a page that comes back was handed out: {page:?}"
        );
        let was_full = *used & ALL_PAGES == ALL_PAGES;
        *used &= !bit;
        if was_full {
            self.partial.push(frame);
        }
    }

    /// A frame all of whose single pages came back.
    fn take_unused_partial(&mut self) -> Option<HostGranule> {
        let first = self.frames.start;
        let singles = &self.singles;
        let unused = |frame: &HostGranule| singles.get((frame.0 - first) as usize) == Some(&SINGLE);
        let index = self.partial.iter().position(unused)?;
        let frame = self.partial.swap_remove(index);
        *self.single(frame) = 0;
        Some(frame)
    }

    fn single(&mut self, frame: HostGranule) -> &mut u8 {
        let index = frame.0.checked_sub(self.frames.start).map(|index| index as usize);
        index.and_then(|index| self.singles.get_mut(index)).must("the frame is the pool's")
    }
}

/// Where and by how many bytes `page` differs from the red-zone pattern, or `None` if it does not.
pub(crate) fn red_zone_damage(memory: &impl Memory, page: Hfn) -> Option<(u16, u16)> {
    let mut first = None;
    let mut bytes = 0;
    let mut start = 0;
    while let Some(word) = memory.first_other(page, RED_ZONE, start) {
        start = word + 1;
        let difference = memory.load(page, word) ^ RED_ZONE;
        if difference != 0 {
            first.get_or_insert(word as u16 * 8 + difference.trailing_zeros() as u16 / 8);
            bytes += difference.to_le_bytes().iter().filter(|byte| **byte != 0).count() as u16;
        }
    }
    first.map(|offset| (offset, bytes))
}
