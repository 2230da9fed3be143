//! Words of pages that devices and the guest's CPUs may write at any time: compared, searched,
//! copied and filled with wide loads and stores.
//!
//! Each word is loaded or stored once, and no reference to it exists. A pair is two single-copy
//! atomic accesses of 64 bits. Source: Arm ARM DDI 0487, B2.2.1, "Requirements for single-copy
//! atomicity". The guest's vector registers are not used: a trap does not save them.
//!
//! The assembly is not inlined: the compiler takes a repeated block for one instruction a line, and
//! would not find that a branch across several of them is too long.
//!
//! What a search finds is a hint: the word may have changed since. Host tests use the portable
//! loops at the end, and the self-test compares the assembly with them on the machine.
#![expect(unsafe_code, reason = "memory that others write has no references")]

use core::ops::Range;

#[cfg(target_arch = "aarch64")]
use oche_types::addr::PAGE_BYTES;

/// Words of a group: what one turn of the inner loops handles.
const GROUP: usize = 4;

/// The first of `words` in which `one` and `other` differ.
///
/// # Safety
///
/// `one` and `other` are aligned, and `words` of both are mapped and no Rust object that may be
/// written meanwhile.
pub unsafe fn first_difference(
    one: *const u64,
    other: *const u64,
    words: Range<usize>,
) -> Option<usize> {
    let differs = |word: usize| {
        // SAFETY: the caller's promise: the word is one of those.
        let left = unsafe { one.wrapping_add(word).read_volatile() };
        // SAFETY: the same.
        let right = unsafe { other.wrapping_add(word).read_volatile() };
        left != right
    };
    search(words, differs, |from, groups| {
        // SAFETY: the caller's promise: the groups are of those words.
        unsafe { equal_groups(one.wrapping_add(from), other.wrapping_add(from), groups) }
    })
}

/// The first of `words` at `page` that is not `value`.
///
/// # Safety
///
/// As for [`first_difference`].
pub unsafe fn first_other(page: *const u64, value: u64, words: Range<usize>) -> Option<usize> {
    // SAFETY: the caller's promise: the word is one of those.
    let differs = |word: usize| unsafe { page.wrapping_add(word).read_volatile() } != value;
    search(words, differs, |from, groups| {
        // SAFETY: the caller's promise: the groups are of those words.
        unsafe { groups_of(page.wrapping_add(from), value, groups) }
    })
}

/// How many of the first of `words` differ between `one` and `other` in each of their bytes.
///
/// # Safety
///
/// As for [`first_difference`].
pub unsafe fn wholly_changed(one: *const u64, other: *const u64, words: Range<usize>) -> usize {
    let is_whole = |word: &usize| {
        // SAFETY: the caller's promise: the word is one of those.
        let left = unsafe { one.wrapping_add(*word).read_volatile() };
        // SAFETY: the same.
        let right = unsafe { other.wrapping_add(*word).read_volatile() };
        has_no_zero_byte(left ^ right)
    };
    words.take_while(is_whole).count()
}

/// Whether each byte of `word` has a bit that is set.
const fn has_no_zero_byte(word: u64) -> bool {
    // Less one, a byte that is zero has its highest bit set, which was clear. So has a byte that is
    // one, but only if a byte below it is zero and borrows.
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = LOW << 7;
    word.wrapping_sub(LOW) & !word & HIGH == 0
}

/// Copies `words` at `from` to `to`.
///
/// # Safety
///
/// Those words of both are aligned and mapped, and no Rust object, and they do not overlap.
pub unsafe fn copy_words(from: *const u64, to: *mut u64, words: Range<usize>) {
    let groups = words.len() / GROUP;
    // SAFETY: the caller's promise: the groups are of those words.
    unsafe { copy_groups(from.wrapping_add(words.start), to.wrapping_add(words.start), groups) };
    for word in words.start + groups * GROUP..words.end {
        // SAFETY: the caller's promise: the word is one of those.
        let value = unsafe { from.wrapping_add(word).read_volatile() };
        // SAFETY: the same.
        unsafe { to.wrapping_add(word).write_volatile(value) };
    }
}

/// The first of `words` for which `differs`. `skip` returns how many of so many groups from a word
/// on have no such word.
#[inline]
fn search(
    words: Range<usize>,
    differs: impl Fn(usize) -> bool,
    skip: impl Fn(usize, usize) -> usize,
) -> Option<usize> {
    let mut at = words.start;
    loop {
        at += GROUP * skip(at, words.end.saturating_sub(at) / GROUP);
        let end = words.end.min(at + GROUP);
        if let Some(word) = (at..end).find(|word| differs(*word)) {
            return Some(word);
        }
        if end == words.end {
            return None;
        }
        // All that differed in the group has become equal since.
        at = end;
    }
}

/// The number of equal groups of `one` and `other`, of `groups`, before the first that differs.
///
/// # Safety
///
/// As for [`first_difference`], with so many groups of words.
#[cfg(target_arch = "aarch64")]
#[inline(never)]
unsafe fn equal_groups(one: *const u64, other: *const u64, groups: usize) -> usize {
    let left: usize;
    // SAFETY: the caller's promise; nothing is written.
    unsafe {
        core::arch::asm!(
            "subs {left}, {left}, #8",
            "b.lo 3f",
            // Eight groups a turn.
            "2:",
            "ldp {a}, {b}, [{one}], #256",
            "ldp {c}, {d}, [{other}], #256",
            "cmp {a}, {c}",
            "ccmp {b}, {d}, #0, eq",
            ".irp at, -240, -224, -208, -192, -176, -160, -144, -128, \
                      -112, -96, -80, -64, -48, -32, -16",
            "ldp {a}, {b}, [{one}, #\\at]",
            "ldp {c}, {d}, [{other}, #\\at]",
            "ccmp {a}, {c}, #0, eq",
            "ccmp {b}, {d}, #0, eq",
            ".endr",
            "b.ne 4f",
            "subs {left}, {left}, #8",
            "b.hs 2b",
            "3:",
            "adds {left}, {left}, #8",
            "b.eq 6f",
            "b 5f",
            // One of these eight differs.
            "4:",
            "sub {one}, {one}, #256",
            "sub {other}, {other}, #256",
            "add {left}, {left}, #8",
            "5:",
            "ldp {a}, {b}, [{one}], #32",
            "ldp {c}, {d}, [{other}], #32",
            "cmp {a}, {c}",
            "ccmp {b}, {d}, #0, eq",
            "ldp {a}, {b}, [{one}, #-16]",
            "ldp {c}, {d}, [{other}, #-16]",
            "ccmp {a}, {c}, #0, eq",
            "ccmp {b}, {d}, #0, eq",
            "b.ne 6f",
            "subs {left}, {left}, #1",
            "b.ne 5b",
            "6:",
            one = inout(reg) one => _,
            other = inout(reg) other => _,
            left = inout(reg) groups => left,
            a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
            options(nostack, readonly)
        );
    }
    groups - left
}

/// The number of groups at `page`, of `groups`, that hold nothing but `value`, before the first
/// that does not.
///
/// # Safety
///
/// As for [`equal_groups`].
#[cfg(target_arch = "aarch64")]
#[inline(never)]
unsafe fn groups_of(page: *const u64, value: u64, groups: usize) -> usize {
    let left: usize;
    // SAFETY: the caller's promise; nothing is written.
    unsafe {
        core::arch::asm!(
            "subs {left}, {left}, #8",
            "b.lo 3f",
            // Eight groups a turn.
            "2:",
            "ldp {a}, {b}, [{page}], #256",
            "cmp {a}, {value}",
            "ccmp {b}, {value}, #0, eq",
            ".irp at, -240, -224, -208, -192, -176, -160, -144, -128, \
                      -112, -96, -80, -64, -48, -32, -16",
            "ldp {a}, {b}, [{page}, #\\at]",
            "ccmp {a}, {value}, #0, eq",
            "ccmp {b}, {value}, #0, eq",
            ".endr",
            "b.ne 4f",
            "subs {left}, {left}, #8",
            "b.hs 2b",
            "3:",
            "adds {left}, {left}, #8",
            "b.eq 6f",
            "b 5f",
            // One of these eight differs.
            "4:",
            "sub {page}, {page}, #256",
            "add {left}, {left}, #8",
            "5:",
            "ldp {a}, {b}, [{page}], #32",
            "cmp {a}, {value}",
            "ccmp {b}, {value}, #0, eq",
            "ldp {a}, {b}, [{page}, #-16]",
            "ccmp {a}, {value}, #0, eq",
            "ccmp {b}, {value}, #0, eq",
            "b.ne 6f",
            "subs {left}, {left}, #1",
            "b.ne 5b",
            "6:",
            page = inout(reg) page => _,
            left = inout(reg) groups => left,
            value = in(reg) value,
            a = out(reg) _, b = out(reg) _,
            options(nostack, readonly)
        );
    }
    groups - left
}

/// Copies the page at `from` to `to`.
///
/// # Safety
///
/// Both are aligned and mapped, and no Rust object, and they do not overlap.
#[cfg(target_arch = "aarch64")]
#[inline(never)]
pub unsafe fn copy_page(from: *const u64, to: *mut u64) {
    // SAFETY: the caller's promise; exactly one page is read and one is written.
    unsafe {
        core::arch::asm!(
            "2:",
            ".rept 4",
            "ldp {a}, {b}, [{from}], #64",
            "ldp {c}, {d}, [{from}, #-48]",
            "ldp {e}, {f}, [{from}, #-32]",
            "ldp {g}, {h}, [{from}, #-16]",
            "stp {a}, {b}, [{to}], #64",
            "stp {c}, {d}, [{to}, #-48]",
            "stp {e}, {f}, [{to}, #-32]",
            "stp {g}, {h}, [{to}, #-16]",
            ".endr",
            "subs {left}, {left}, #256",
            "b.ne 2b",
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            left = inout(reg) PAGE_BYTES => _,
            a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
            e = out(reg) _, f = out(reg) _, g = out(reg) _, h = out(reg) _,
            options(nostack)
        );
    }
}

/// Copies so many groups of words at `from` to `to`.
///
/// # Safety
///
/// As for [`copy_page`], with those words alone.
#[cfg(target_arch = "aarch64")]
#[inline(never)]
unsafe fn copy_groups(from: *const u64, to: *mut u64, groups: usize) {
    // SAFETY: the caller's promise; exactly so many groups are read and written.
    unsafe {
        core::arch::asm!(
            "cbz {left}, 3f",
            "2:",
            "ldp {a}, {b}, [{from}], #32",
            "ldp {c}, {d}, [{from}, #-16]",
            "stp {a}, {b}, [{to}], #32",
            "stp {c}, {d}, [{to}, #-16]",
            "subs {left}, {left}, #1",
            "b.ne 2b",
            "3:",
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            left = inout(reg) groups => _,
            a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
            options(nostack)
        );
    }
}

/// Stores `value` into all words of the page at `to`.
///
/// # Safety
///
/// As for [`copy_page`].
#[cfg(target_arch = "aarch64")]
#[inline(never)]
pub unsafe fn fill_page(to: *mut u64, value: u64) {
    // SAFETY: the caller's promise; exactly one page is written.
    unsafe {
        core::arch::asm!(
            "2:",
            "stp {value}, {value}, [{to}], #256",
            ".irp at, -240, -224, -208, -192, -176, -160, -144, -128, \
                      -112, -96, -80, -64, -48, -32, -16",
            "stp {value}, {value}, [{to}, #\\at]",
            ".endr",
            "subs {left}, {left}, #256",
            "b.ne 2b",
            to = inout(reg) to => _,
            left = inout(reg) PAGE_BYTES => _,
            value = in(reg) value,
            options(nostack)
        );
    }
}

/// As the assembly, for tests on a developer's computer.
#[cfg(not(target_arch = "aarch64"))]
unsafe fn equal_groups(one: *const u64, other: *const u64, groups: usize) -> usize {
    let word = |from: *const u64, word: usize| {
        // SAFETY: the caller's promise: the word is one of those.
        unsafe { from.wrapping_add(word).read_volatile() }
    };
    let first = (0..groups * GROUP).find(|index| word(one, *index) != word(other, *index));
    first.map_or(groups, |index| index / GROUP)
}

/// As the assembly, for tests on a developer's computer.
#[cfg(not(target_arch = "aarch64"))]
unsafe fn groups_of(page: *const u64, value: u64, groups: usize) -> usize {
    // SAFETY: the caller's promise: the word is one of those.
    let word = |word: usize| unsafe { page.wrapping_add(word).read_volatile() };
    let first = (0..groups * GROUP).find(|index| word(*index) != value);
    first.map_or(groups, |index| index / GROUP)
}

/// As the assembly, for tests on a developer's computer.
#[cfg(not(target_arch = "aarch64"))]
unsafe fn copy_groups(from: *const u64, to: *mut u64, groups: usize) {
    for word in 0..groups * GROUP {
        // SAFETY: the caller's promise: the word is one of those.
        let value = unsafe { from.wrapping_add(word).read_volatile() };
        // SAFETY: the same.
        unsafe { to.wrapping_add(word).write_volatile(value) };
    }
}

#[cfg(test)]
mod tests {
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
}
