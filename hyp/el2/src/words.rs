//! Words of pages that devices and the guest's CPUs may write at any time: compared, searched,
//! copied and filled.
//!
//! Each word is loaded or stored once, and no reference to it exists. Groups of words go through
//! vector registers (`simd`) on CPUs on which that is safe, and word by word (`portable`) on
//! others and in host tests.
//!
//! What a search finds is a hint: the word may have changed since. The self-test compares both ways
//! on the machine.
#![expect(unsafe_code, reason = "memory that others write has no references")]

use core::ops::Range;

use oche_types::addr::PAGE_WORDS;

use portable::GROUP;

mod portable;
#[cfg(target_os = "none")]
pub mod simd;
#[cfg(test)]
mod tests;

const PAGE_GROUPS: usize = PAGE_WORDS / GROUP;

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

/// Copies the page at `from` to `to`.
///
/// # Safety
///
/// Both are aligned and mapped, and no Rust object, and they do not overlap.
pub unsafe fn copy_page(from: *const u64, to: *mut u64) {
    // SAFETY: the caller's promise; the groups are a page.
    unsafe { copy_groups(from, to, PAGE_GROUPS) };
}

/// Stores `value` into all words of the page at `to`.
///
/// # Safety
///
/// As for [`copy_page`].
pub unsafe fn fill_page(to: *mut u64, value: u64) {
    #[cfg(target_os = "none")]
    if simd::are_free() {
        // SAFETY: the caller's promise; the groups are a page.
        return unsafe { simd::fill_groups(to, value, PAGE_GROUPS) };
    }
    // SAFETY: the same.
    unsafe { portable::fill_groups(to, value, PAGE_GROUPS) };
}

/// The number of equal groups of `one` and `other`, of `groups`, before the first that differs.
///
/// # Safety
///
/// As for [`first_difference`], with so many groups of words.
unsafe fn equal_groups(one: *const u64, other: *const u64, groups: usize) -> usize {
    #[cfg(target_os = "none")]
    if simd::are_free() {
        // SAFETY: the caller's promise.
        return unsafe { simd::equal_groups(one, other, groups) };
    }
    // SAFETY: the same.
    unsafe { portable::equal_groups(one, other, groups) }
}

/// The number of groups at `page`, of `groups`, that hold nothing but `value`, before the first
/// that does not.
///
/// # Safety
///
/// As for [`equal_groups`].
unsafe fn groups_of(page: *const u64, value: u64, groups: usize) -> usize {
    #[cfg(target_os = "none")]
    if simd::are_free() {
        // SAFETY: the caller's promise.
        return unsafe { simd::groups_of(page, value, groups) };
    }
    // SAFETY: the same.
    unsafe { portable::groups_of(page, value, groups) }
}

/// Copies so many groups of words at `from` to `to`.
///
/// # Safety
///
/// As for [`copy_page`], with those words alone.
unsafe fn copy_groups(from: *const u64, to: *mut u64, groups: usize) {
    #[cfg(target_os = "none")]
    if simd::are_free() {
        // SAFETY: the caller's promise.
        return unsafe { simd::copy_groups(from, to, groups) };
    }
    // SAFETY: the same.
    unsafe { portable::copy_groups(from, to, groups) };
}
