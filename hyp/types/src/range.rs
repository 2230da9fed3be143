//! Ranges of physical addresses, and short lists of them, without allocation.

use core::fmt;

/// Bytes in a page of stage 1 and stage 2: 4 KiB.
pub const PAGE: u64 = 4096;
/// Bytes in a 2 MiB block, the alignment of images and of reserved memory.
pub const BLOCK: u64 = 2 << 20;

/// A half-open range of physical addresses in bytes. Guest-physical and host-physical addresses are
/// the same in it: it is used at boot, before any page migrates, and for memory that never
/// migrates.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct PhysRange {
    /// First address.
    pub start: u64,
    /// First address past the end; never below `start`.
    pub end: u64,
}

impl PhysRange {
    /// The range of `size` bytes at `start`, or `None` if it would wrap.
    pub fn sized(start: u64, size: u64) -> Option<Self> {
        Some(Self { start, end: start.checked_add(size)? })
    }

    /// Bytes in the range.
    pub fn size(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// True when there is no byte in it.
    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }

    /// True when the two share a byte.
    pub fn overlaps(&self, other: &Self) -> bool {
        !self.is_empty() && !other.is_empty() && self.start < other.end && other.start < self.end
    }

    /// The intersection, if it is not empty.
    pub fn overlap(&self, other: &Self) -> Option<Self> {
        let shared = Self { start: self.start.max(other.start), end: self.end.min(other.end) };
        self.overlaps(other).then_some(shared)
    }

    /// True when every byte of `other` is in this range.
    pub fn covers(&self, other: &Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// True when `address` is in the range.
    pub fn contains(&self, address: u64) -> bool {
        self.start <= address && address < self.end
    }

    /// The range grown to whole multiples of `alignment`, a power of two. Saturates at the top.
    pub fn grown_to(&self, alignment: u64) -> Self {
        Self { start: align_down(self.start, alignment), end: align_up(self.end, alignment) }
    }

    /// The range shrunk to whole multiples of `alignment`, a power of two; may become empty.
    pub fn shrunk_to(&self, alignment: u64) -> Self {
        let start = align_up(self.start, alignment);
        Self { start, end: align_down(self.end, alignment).max(start) }
    }
}

impl fmt::Debug for PhysRange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:#x}..{:#x}", self.start, self.end)
    }
}

impl fmt::Display for PhysRange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, out)
    }
}

/// `value` rounded down to a multiple of `alignment`, a power of two.
pub fn align_down(value: u64, alignment: u64) -> u64 {
    value & !(alignment.wrapping_sub(1))
}

/// `value` rounded up to a multiple of `alignment`, a power of two; saturates at the highest
/// multiple.
pub fn align_up(value: u64, alignment: u64) -> u64 {
    align_down(value.saturating_add(alignment.wrapping_sub(1)), alignment)
}

/// The list has no room for another range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListFull;

/// Most ranges a [`RangeList`] holds.
pub const LIST_CAPACITY: usize = 64;

/// Up to [`LIST_CAPACITY`] ranges, in the order they were added, without allocation.
#[derive(Clone, Copy, Debug)]
pub struct RangeList {
    ranges: [PhysRange; LIST_CAPACITY],
    length: usize,
}

impl RangeList {
    /// An empty list.
    pub const fn new() -> Self {
        Self { ranges: [PhysRange { start: 0, end: 0 }; LIST_CAPACITY], length: 0 }
    }

    /// The ranges.
    pub fn as_slice(&self) -> &[PhysRange] {
        self.ranges.get(..self.length).unwrap_or(&[])
    }

    /// Adds `range` unless it is empty.
    ///
    /// # Errors
    ///
    /// [`ListFull`]; the list is unchanged.
    pub fn push(&mut self, range: PhysRange) -> Result<(), ListFull> {
        if range.is_empty() {
            return Ok(());
        }
        *self.ranges.get_mut(self.length).ok_or(ListFull)? = range;
        self.length += 1;
        Ok(())
    }

    /// Removes `hole` from every range, splitting those that surround it.
    ///
    /// # Errors
    ///
    /// [`ListFull`] if a split needs more room; the list may have lost ranges and must be dropped.
    pub fn subtract(&mut self, hole: PhysRange) -> Result<(), ListFull> {
        let before = *self;
        *self = Self::new();
        for range in before.as_slice() {
            if range.overlaps(&hole) {
                self.push(PhysRange { start: range.start, end: hole.start.max(range.start) })?;
                self.push(PhysRange { start: hole.end.min(range.end), end: range.end })?;
            } else {
                self.push(*range)?;
            }
        }
        Ok(())
    }

    /// True when one range of the list has every byte of `range`.
    pub fn covers(&self, range: &PhysRange) -> bool {
        self.as_slice().iter().any(|one| one.covers(range))
    }

    /// True when `range` shares a byte with a range of the list.
    pub fn overlaps(&self, range: &PhysRange) -> bool {
        self.as_slice().iter().any(|one| one.overlaps(range))
    }

    /// All bytes of all ranges.
    pub fn total(&self) -> u64 {
        self.as_slice().iter().fold(0u64, |sum, range| sum.saturating_add(range.size()))
    }
}

impl Default for RangeList {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_in_the_middle_leaves_both_sides() {
        let mut list = RangeList::new();
        list.push(PhysRange { start: 0x1000, end: 0x9000 }).expect("room");
        list.subtract(PhysRange { start: 0x3000, end: 0x5000 }).expect("room");
        assert_eq!(
            list.as_slice(),
            [PhysRange { start: 0x1000, end: 0x3000 }, PhysRange { start: 0x5000, end: 0x9000 }]
        );
        list.subtract(PhysRange { start: 0, end: 0x4000 }).expect("room");
        assert_eq!(list.as_slice(), [PhysRange { start: 0x5000, end: 0x9000 }]);
    }

    #[test]
    fn a_full_list_says_so() {
        let mut list = RangeList::new();
        for index in 0..LIST_CAPACITY as u64 {
            list.push(PhysRange { start: index * 16, end: index * 16 + 1 }).expect("room");
        }
        assert_eq!(list.push(PhysRange { start: 0, end: 1 }), Err(ListFull));
    }

    #[test]
    fn rounding_never_wraps() {
        assert_eq!(align_up(u64::MAX, PAGE), !(PAGE - 1));
        assert!(PhysRange::sized(u64::MAX, 2).is_none());
        assert!(PhysRange { start: 0x1001, end: 0x1fff }.shrunk_to(PAGE).is_empty());
    }
}
