//! Indices of the SMMU's circular queues. Source: ARM IHI 0070, 3.5.1.

/// A position in a queue of 2^n entries: an index of n bits and, above it, a bit that flips at each
/// wrap.
///
/// The queue is empty if the positions of producer and consumer are equal, and full if they differ
/// only in the wrap bit. Values from the hardware are masked, so they never point outside the
/// queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    value: u32,
    entries_log2: u32,
}

impl Position {
    /// The first entry of a queue of 2^`entries_log2` entries (at most 19), before any wrap.
    pub fn first(entries_log2: u32) -> Self {
        Self { value: 0, entries_log2 }
    }

    /// The position in the same queue for the register value `value`.
    pub fn seen(self, value: u32) -> Self {
        Self { value: value & self.mask(), ..self }
    }

    /// The position after this one.
    pub fn next(self) -> Self {
        self.seen(self.value.wrapping_add(1))
    }

    /// The value for the index register.
    pub fn value(self) -> u32 {
        self.value
    }

    /// The entry's index, below 2^n.
    pub fn place(self) -> usize {
        (self.value & (self.mask() >> 1)) as usize
    }

    /// Number of entries by which a producer at this position is ahead of `consumer`.
    pub fn ahead_of(self, consumer: Self) -> u32 {
        self.value.wrapping_sub(consumer.value) & self.mask()
    }

    /// Number of entries of the queue.
    pub fn entries(self) -> u32 {
        1 << self.entries_log2
    }

    fn mask(self) -> u32 {
        (2 << self.entries_log2) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_wraps_at_twice_the_entries_and_a_place_at_once() {
        let mut position = Position::first(2);
        let mut seen = std::vec::Vec::new();
        for _ in 0..9 {
            seen.push((position.value(), position.place()));
            position = position.next();
        }
        let expected = [(0, 0), (1, 1), (2, 2), (3, 3), (4, 0), (5, 1), (6, 2), (7, 3), (0, 0)];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_full_queue_is_not_an_empty_one() {
        let empty = Position::first(2);
        assert_eq!(empty.ahead_of(empty), 0);
        assert_eq!(empty.seen(4).ahead_of(empty), 4);
        assert_eq!(empty.seen(1).ahead_of(empty.seen(6)), 3);
    }

    #[test]
    fn what_hardware_shows_is_masked() {
        let position = Position::first(2).seen(u32::MAX);
        assert_eq!((position.value(), position.place()), (7, 3));
    }
}
