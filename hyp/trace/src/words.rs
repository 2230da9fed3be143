//! The memory that the trace lives in, as its writers and readers see it, and short texts in it.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use crate::record::{RECORD_WORDS, Record, SEQUENCE_WORD};

/// Records that are stored together at most: an event and its data.
pub const GROUP: usize = 3;

/// Memory as aligned 64-bit little-endian words, counted from the trace directory's start. A
/// hypervisor writes it; a runner, a debugger or a later boot reads it, at the same time or after.
///
/// # Guarantees
///
/// Every load and store is single-copy atomic. A load is an acquire: it sees no less than the loads
/// before it saw. A store is a release: who sees it sees the stores before it as well. `AtomicU64`
/// with `Acquire` and `Release` is that, on AArch64 one `LDAR` and one `STLR`.
///
/// An index past the end loads 0 and stores nothing.
pub trait Words {
    /// The word at `index`.
    fn load(&self, index: usize) -> u64;

    /// Makes the word at `index` be `value`.
    fn store(&self, index: usize, value: u64);

    /// Stores the words of a record from `index` on, in the order in which a ring's writer must:
    /// the number first, then the others. Implement it where one look at the bounds can serve all
    /// four.
    fn store_record(&self, index: usize, record: &Record) {
        let [time, sequence, code, payload] = record.0;
        self.store(index.wrapping_add(SEQUENCE_WORD), sequence);
        self.store(index, time);
        self.store(index.wrapping_add(2), code);
        self.store(index.wrapping_add(3), payload);
    }

    /// Stores `records` one behind the other from `index` on, each as [`Self::store_record`] does.
    /// Who sees a word of one sees the numbers of all.
    fn store_records(&self, index: usize, records: &[Record; GROUP]) {
        for (number, record) in records.iter().enumerate() {
            self.store_record(index.wrapping_add(number * RECORD_WORDS), record);
        }
    }
}

/// Memory that every CPU shares, as [`Words`]: on AArch64 a store is three instructions.
impl Words for [AtomicU64] {
    #[inline]
    fn load(&self, index: usize) -> u64 {
        self.get(index).map_or(0, |word| u64::from_le(word.load(Ordering::Acquire)))
    }

    #[inline]
    fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.get(index) {
            word.store(value.to_le(), Ordering::Release);
        }
    }

    #[inline]
    fn store_record(&self, index: usize, record: &Record) {
        let place = self.get(index..).and_then(|words| words.first_chunk::<RECORD_WORDS>());
        let Some([time_place, sequence_place, code_place, payload_place]) = place else { return };
        let [time, sequence, code, payload] = record.0;
        sequence_place.store(sequence.to_le(), Ordering::Release);
        time_place.store(time.to_le(), Ordering::Release);
        code_place.store(code.to_le(), Ordering::Release);
        payload_place.store(payload.to_le(), Ordering::Release);
    }

    /// With one barrier for all: the numbers come before it, and the other words behind it.
    #[inline]
    fn store_records(&self, index: usize, records: &[Record; GROUP]) {
        let places = self.get(index..).and_then(|words| words.first_chunk());
        let Some::<&[AtomicU64; GROUP * RECORD_WORDS]>(places) = places else { return };
        let places = places.as_chunks::<RECORD_WORDS>().0;
        for ([_, place, ..], Record([_, sequence, ..])) in places.iter().zip(records) {
            place.store(sequence.to_le(), Ordering::Relaxed);
        }
        fence(Ordering::Release);
        for (places, Record(words)) in places.iter().zip(records) {
            let ([time_place, _, code_place, payload_place], [time, _, code, payload]) =
                (places, words);
            time_place.store(time.to_le(), Ordering::Relaxed);
            code_place.store(code.to_le(), Ordering::Relaxed);
            payload_place.store(payload.to_le(), Ordering::Relaxed);
        }
    }
}

impl<T: Words + ?Sized> Words for &T {
    fn load(&self, index: usize) -> u64 {
        (**self).load(index)
    }

    fn store(&self, index: usize, value: u64) {
        (**self).store(index, value);
    }

    fn store_record(&self, index: usize, record: &Record) {
        (**self).store_record(index, record);
    }

    fn store_records(&self, index: usize, records: &[Record; GROUP]) {
        (**self).store_records(index, records);
    }
}

/// A copy of trace memory that does not change any more. Stores are dropped.
impl Words for [u64] {
    fn load(&self, index: usize) -> u64 {
        self.get(index).copied().unwrap_or(0)
    }

    fn store(&self, _index: usize, _value: u64) {}
}

/// A UTF-8 text of at most `N` bytes, padded with zeros; `N` is a multiple of 8.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text<const N: usize>([u8; N]);

impl<const N: usize> Text<N> {
    /// As much of `text` as fits, ending between two characters.
    pub fn new(text: &str) -> Self {
        let mut bytes = [0; N];
        let end = text.floor_char_boundary(N);
        for (to, from) in bytes.iter_mut().zip(text.bytes().take(end)) {
            *to = from;
        }
        Self(bytes)
    }

    /// The text up to the first zero or the first byte that is not UTF-8.
    pub fn as_str(&self) -> &str {
        let text = self.0.split(|byte| *byte == 0).next().unwrap_or_default();
        text.utf8_chunks().next().map_or("", |chunk| chunk.valid())
    }

    /// Loads the text that starts at word `index`.
    pub fn load(words: &impl Words, index: usize) -> Self {
        let mut bytes = [0; N];
        for (place, to) in bytes.as_chunks_mut().0.iter_mut().enumerate() {
            *to = words.load(index + place).to_le_bytes();
        }
        Self(bytes)
    }

    /// Stores the text from word `index` on.
    pub fn store(&self, words: &impl Words, index: usize) {
        for (place, from) in self.0.as_chunks().0.iter().enumerate() {
            words.store(index + place, u64::from_le_bytes(*from));
        }
    }
}

impl<const N: usize> core::fmt::Debug for Text<N> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.as_str().fmt(formatter)
    }
}

/// Two 32-bit halves as one word.
pub(super) fn pair(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// The 32-bit halves of a word, low first.
pub(super) fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// Trace memory of a test.
    pub(crate) struct Shared(Vec<AtomicU64>);

    impl Shared {
        pub(crate) fn new(bytes: usize) -> Self {
            Self((0..bytes / 8).map(|_| AtomicU64::new(0)).collect())
        }
    }

    impl Words for Shared {
        fn load(&self, index: usize) -> u64 {
            self.0.as_slice().load(index)
        }

        fn store(&self, index: usize, value: u64) {
            self.0.as_slice().store(index, value);
        }

        fn store_record(&self, index: usize, record: &Record) {
            self.0.as_slice().store_record(index, record);
        }

        fn store_records(&self, index: usize, records: &[Record; GROUP]) {
            self.0.as_slice().store_records(index, records);
        }
    }

    #[test]
    fn a_text_is_cut_between_characters_and_survives_memory() {
        let words = Shared::new(64);
        for (given, kept) in [
            ("", ""),
            ("nvme", "nvme"),
            ("eight by", "eight by"),
            ("seven \u{e9}!", "seven \u{e9}"),
        ] {
            let text = Text::<8>::new(given);
            text.store(&words, 3);
            assert_eq!(Text::<8>::load(&words, 3).as_str(), kept);
        }
        assert_eq!(Text::<8>::new("1234567\u{e9}").as_str(), "1234567");
    }

    #[test]
    fn bytes_that_are_no_text_end_it() {
        let words = Shared::new(8);
        words.store(0, u64::from_le_bytes(*b"ab\xff\0cdef"));
        assert_eq!(Text::<8>::load(&words, 0).as_str(), "ab");
    }
}
