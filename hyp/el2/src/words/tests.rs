//! Searches and copies against their definitions.

use super::{copy_words, first_difference, first_other, wholly_changed};

const WORDS: usize = 512;

#[test]
fn a_difference_is_found_in_each_position_from_each_start() {
    let one = [7; WORDS];
    for at in 0..WORDS {
        let mut other = one;
        other[at] = 8;
        for start in (0..=at).rev().take(40).chain([0]) {
            for words in [start..WORDS, start..at + 1, start..at] {
                let expected = words.contains(&at).then_some(at);
                // SAFETY: both are arrays of this test, and nothing writes them.
                let found =
                    unsafe { first_difference(one.as_ptr(), other.as_ptr(), words.clone()) };
                assert_eq!(found, expected, "word {at} of {words:?}");
                // SAFETY: the same.
                let found = unsafe { first_other(other.as_ptr(), 7, words.clone()) };
                assert_eq!(found, expected, "word {at} of {words:?}");
            }
        }
    }
}

#[test]
fn random_pages_give_what_the_definition_gives() {
    let mut state = 1_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % below
    };
    for _ in 0..2_000 {
        let mut one = [0; WORDS];
        let mut other = [0; WORDS];
        for _ in 0..random(4) {
            one[random(512) as usize] = random(2);
            other[random(512) as usize] = random(2);
        }
        let start = random(513) as usize;
        let expected = (start..WORDS).find(|word| one[*word] != other[*word]);
        // SAFETY: both are arrays of this test, and nothing writes them.
        let found = unsafe { first_difference(one.as_ptr(), other.as_ptr(), start..WORDS) };
        assert_eq!(found, expected);
        let expected = (start..WORDS).find(|word| one[*word] != 0);
        // SAFETY: the same.
        assert_eq!(unsafe { first_other(one.as_ptr(), 0, start..WORDS) }, expected);
    }
}

#[test]
fn a_run_ends_at_the_first_word_with_an_equal_byte() {
    let one: [u64; WORDS] = core::array::from_fn(|word| 0xff01_0002_8000_00fe << (word % 8));
    let mut other = one.map(|word| word ^ 0x0180_ff01_1010_8001);
    for at in [0, 1, 5, 300, WORDS - 1] {
        for byte in 0..8 {
            let (kept, mask) = (other[at], 0xff_u64 << (8 * byte));
            other[at] = kept & !mask | one[at] & mask;
            for (start, end) in [(0, WORDS), (at, WORDS), (at / 2, at), (at / 2, at + 1)] {
                // SAFETY: both are arrays of this test, and nothing writes them.
                let count = unsafe { wholly_changed(one.as_ptr(), other.as_ptr(), start..end) };
                assert_eq!(count, at - start, "byte {byte} of word {at} in {start}..{end}");
            }
            other[at] = kept;
        }
    }
    // SAFETY: the same.
    assert_eq!(unsafe { wholly_changed(one.as_ptr(), other.as_ptr(), 3..WORDS) }, WORDS - 3);
}

#[test]
fn exactly_the_words_of_the_range_are_copied() {
    let from: [u64; WORDS] = core::array::from_fn(|word| word as u64);
    for start in [0, 1, 2, 3, 4, 7, 509, 512] {
        for end in (start..WORDS.min(start + 20)).chain([WORDS]) {
            let mut to = [u64::MAX; WORDS];
            // SAFETY: both are arrays of this test, and nothing else uses them.
            unsafe { copy_words(from.as_ptr(), to.as_mut_ptr(), start..end) };
            for (word, value) in to.iter().enumerate() {
                let copied = (start..end).contains(&word);
                assert_eq!(*value, if copied { word as u64 } else { u64::MAX });
            }
        }
    }
}
