//! Indices of the SMMU's circular queues. Source: ARM IHI 0070, 3.5.1.

/// A position in a queue of 2^n entries: n bits of place and, above them, one bit that flips at
/// each wrap.
///
/// Equal positions of producer and consumer mean empty; positions that differ in the wrap bit alone
/// mean full. What hardware reports is masked before it is believed, so it can never point outside
/// the queue.
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

    /// The position in the same queue that hardware shows as `value`.
    pub fn seen(self, value: u32) -> Self {
        Self { value: value & self.mask(), ..self }
    }

    /// The position after this one.
    pub fn next(self) -> Self {
        self.seen(self.value.wrapping_add(1))
    }

    /// The index register's value.
    pub fn value(self) -> u32 {
        self.value
    }

    /// The entry's place, below 2^n.
    pub fn place(self) -> usize {
        (self.value & (self.mask() >> 1)) as usize
    }

    /// How many entries a producer at this position is ahead of `consumer`.
    pub fn ahead_of(self, consumer: Self) -> u32 {
        self.value.wrapping_sub(consumer.value) & self.mask()
    }

    /// Entries of the queue.
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
