//! The frame pool: the only host memory, besides guest RAM, that the engine maps for devices or
//! stores data in.
//!
//! Invariant: every page of a free frame holds the red-zone pattern. The empty slots of a frame
//! that is taken for a granule are therefore red zones already, and a device's write to a frame
//! after it was returned can be detected.
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

/// The red-zone pattern: what every word of an unused page holds. It is not a likely pointer, count
/// or text.
pub const RED_ZONE: u64 = 0x9e0c_4e5d_ead9_0c4e;

/// A fixed number of 16 KiB frames.
#[derive(Debug)]
pub(crate) struct Pool {
    frames: Range<u32>,
    free: Vec<HostGranule>,
    /// Returned, but perhaps still reachable by a device.
    quarantined: Vec<HostGranule>,
    /// For each frame, [`SINGLE`] if its pages are allocated one by one, and a bit for each
    /// allocated page.
    singles: Vec<u8>,
    /// [`SINGLE`] frames with a free page.
    partial: Vec<HostGranule>,
}

/// Set for a frame whose pages are allocated one by one.
const SINGLE: u8 = 0x80;
/// All pages of a frame.
const ALL_PAGES: u8 = (1 << SLOTS) - 1;

impl Pool {
    /// Creates a pool of `frames` and writes the red-zone pattern into all of them.
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
        // The lists of free, quarantined and partial frames, and `singles`.
        3 * bytes_of::<HostGranule>(frames) + bytes_of::<u8>(frames)
    }

    /// Whether `frame` belongs to the pool.
    pub(crate) fn owns(&self, frame: HostGranule) -> bool {
        self.frames.contains(&frame.0)
    }

    /// Number of free frames.
    pub(crate) fn free_frames(&self) -> usize {
        self.free.len()
    }

    /// How many single pages can be allocated, counted to [`SLOTS`] at most: beside a frame that is
    /// allocated before, if `needs_frame`. `None` if there is no such frame.
    pub(crate) fn room(&self, needs_frame: bool) -> Option<usize> {
        let frames = self.free.len();
        if frames > 1 {
            return Some(SLOTS);
        }
        let free_pages = |frame: &HostGranule| SLOTS - self.used_pages(*frame);
        let pages = frames * SLOTS + self.partial.iter().map(free_pages).sum::<usize>();
        let has_frame =
            || frames != 0 || self.partial.iter().any(|frame| free_pages(frame) == SLOTS);
        match needs_frame {
            true => has_frame().then(|| SLOTS.min(pages - SLOTS)),
            false => Some(SLOTS.min(pages)),
        }
    }

    /// How many pages of a [`SINGLE`] frame are allocated.
    fn used_pages(&self, frame: HostGranule) -> usize {
        let index = frame.0.checked_sub(self.frames.start).must("the frame belongs to the pool");
        let used = self.singles.get(index as usize).must("the frame belongs to the pool");
        (used & ALL_PAGES).count_ones() as usize
    }

    /// Allocates a frame whose pages all hold the red-zone pattern. `None` if all are in use.
    pub(crate) fn take_frame(&mut self) -> Option<HostGranule> {
        self.free.pop().or_else(|| self.take_unused_partial())
    }

    /// Frees a frame whose pages all hold the red-zone pattern.
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

    /// Writes the red-zone pattern into a frame and frees it.
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
        invariant!(has_room, "a frame that is returned belongs to the pool and was in use");
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
        invariant!(self.owns(frame), "a frame that is returned belongs to the pool: {frame:?}");
        invariant!(self.free.len() < self.frames.len(), "a frame is returned once");
        invariant!(
            *self.single(frame) == 0,
            "a frame that is returned has no single pages allocated: {frame:?}"
        );
        self.free.push(frame);
    }

    /// Allocates a single page. `None` if all frames are in use.
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
            "a frame in the list of partial ones has a free page"
        );
        let slot = (!*used & ALL_PAGES).trailing_zeros() as usize;
        *used |= 1 << slot;
        if *used & ALL_PAGES == ALL_PAGES {
            self.partial.pop();
        }
        Some(frame.page(slot))
    }

    /// Writes the red-zone pattern into a single page and frees it.
    pub(crate) fn give_page(&mut self, memory: &mut impl Memory, page: Hfn) {
        memory.fill_page(page, RED_ZONE);
        let frame = page.frame();
        let used = self.single(frame);
        let bit = 1 << (page.0 & 3);
        invariant!(
            *used & (SINGLE | bit) == SINGLE | bit,
            "a page that is returned was allocated: {page:?}"
        );
        let was_full = *used & ALL_PAGES == ALL_PAGES;
        *used &= !bit;
        if was_full {
            self.partial.push(frame);
        }
    }

    /// Allocates a frame whose single pages are all free again.
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
        index.and_then(|index| self.singles.get_mut(index)).must("the frame belongs to the pool")
    }
}

/// The offset of the first byte and the number of bytes in which `page` differs from the red-zone
/// pattern, or `None` if it does not differ.
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
