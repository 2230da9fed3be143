//! Groups of words, one word after the other.

/// Words of a group: 64 bytes.
pub(super) const GROUP: usize = 8;

/// # Safety
///
/// As for `words::equal_groups`.
pub(super) unsafe fn equal_groups(one: *const u64, other: *const u64, groups: usize) -> usize {
    let word = |from: *const u64, word: usize| {
        // SAFETY: the caller's promise: the word is one of those.
        unsafe { from.wrapping_add(word).read_volatile() }
    };
    let first = (0..groups * GROUP).find(|index| word(one, *index) != word(other, *index));
    first.map_or(groups, |index| index / GROUP)
}

/// # Safety
///
/// As for `words::groups_of`.
pub(super) unsafe fn groups_of(page: *const u64, value: u64, groups: usize) -> usize {
    // SAFETY: the caller's promise: the word is one of those.
    let word = |word: usize| unsafe { page.wrapping_add(word).read_volatile() };
    let first = (0..groups * GROUP).find(|index| word(*index) != value);
    first.map_or(groups, |index| index / GROUP)
}

/// # Safety
///
/// As for `words::copy_groups`.
pub(super) unsafe fn copy_groups(from: *const u64, to: *mut u64, groups: usize) {
    for word in 0..groups * GROUP {
        // SAFETY: the caller's promise: the word is one of those.
        let value = unsafe { from.wrapping_add(word).read_volatile() };
        // SAFETY: the same.
        unsafe { to.wrapping_add(word).write_volatile(value) };
    }
}

/// # Safety
///
/// As for `words::fill_page`, with so many groups of words.
pub(super) unsafe fn fill_groups(to: *mut u64, value: u64, groups: usize) {
    for word in 0..groups * GROUP {
        // SAFETY: the caller's promise: the word is one of those.
        unsafe { to.wrapping_add(word).write_volatile(value) };
    }
}
