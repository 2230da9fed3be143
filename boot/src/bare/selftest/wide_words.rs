//! Whether comparing, copying and filling pages with wide loads and stores does what loads and
//! stores of single words do.
#![expect(unsafe_code, reason = "scratch pages are raw memory")]

use core::sync::atomic::Ordering;

use oche_el2::words;

use super::probe;

/// Two values of a word.
const ONE: u64 = 0x0c4e_0c4e_0c4e_0001;
const OTHER: u64 = 0x8c4e_0c4e_0c4e_0001;
/// Searches begin at most so many words before the word that differs, or at the page's start.
const STARTS: usize = 10;

/// Copies the scratch page `from` to the scratch page `to`.
pub(super) fn copy(from: u64, to: u64) {
    // SAFETY: both are pages of scratch memory.
    unsafe { words::copy_page(pointer(from), pointer(to)) };
}

/// Copies, fills and compares the scratch pages `page` and `other`, with a difference in each word.
pub(super) fn agree(page: u64, other: u64) -> bool {
    let holds = |page: u64, value: &dyn Fn(usize) -> u64| {
        let mut words = probe::words(page).iter().enumerate();
        words.all(|(index, word)| word.load(Ordering::Relaxed) == value(index))
    };
    for (index, word) in probe::words(page).iter().enumerate() {
        word.store(index as u64, Ordering::Relaxed);
    }
    copy(page, other);
    let are_copied = holds(other, &|index| index as u64);
    for page in [page, other] {
        // SAFETY: a page of scratch memory.
        unsafe { words::fill_page(pointer(page), ONE) };
    }
    let are_filled = holds(page, &|_| ONE) && holds(other, &|_| ONE);
    are_copied
        && are_filled
        && searches_agree(page, other)
        && runs_agree(page, other)
        && copies_agree()
}

/// Whether exactly the words of a run are copied, from each start in a group on.
fn runs_agree(page: u64, other: u64) -> bool {
    let length = |start: usize| 3 + 5 * start;
    (0..8).all(|start| {
        for (index, word) in probe::words(page).iter().enumerate() {
            word.store(index as u64, Ordering::Relaxed);
        }
        let run = start..start + length(start);
        // SAFETY: pages of scratch memory.
        unsafe { words::fill_page(pointer(other), ONE) };
        // SAFETY: the same.
        unsafe { words::copy_words(pointer(page), pointer(other), run.clone()) };
        // SAFETY: the same.
        unsafe { words::fill_page(pointer(page), ONE) };
        probe::words(other).iter().enumerate().all(|(index, word)| {
            let expected = if run.contains(&index) { index as u64 } else { ONE };
            word.load(Ordering::Relaxed) == expected
        })
    })
}

/// Whether `memcpy` copies so many bytes and no others, for each alignment.
fn copies_agree() -> bool {
    let from: [u8; 128] = core::array::from_fn(|index| index as u8);
    let copies = |bytes: usize, first: usize, start: usize| {
        let mut to = [0xff_u8; 128];
        let (Some(source), Some(target)) =
            (from.get(first..first + bytes), to.get_mut(start..start + bytes))
        else {
            return false;
        };
        // The length is not known to the compiler, so it calls `memcpy`.
        target.copy_from_slice(core::hint::black_box(source));
        to.iter().enumerate().all(|(index, byte)| {
            let is_inside = (start..start + bytes).contains(&index);
            usize::from(*byte) == if is_inside { index - start + first } else { 0xff }
        })
    };
    (0..100).all(|bytes| (0..9).all(|first| (0..9).all(|start| copies(bytes, first, start))))
}

/// Whether a search finds the one word of `page` that is not [`ONE`], as all of `other` is.
fn searches_agree(page: u64, other: u64) -> bool {
    let page_words = probe::words(page);
    let finds = |at: usize, start: usize| {
        let expected = (start <= at).then_some(at);
        let range = start..page_words.len();
        // SAFETY: pages of scratch memory.
        let change =
            unsafe { words::first_difference(pointer(page), pointer(other), range.clone()) };
        // SAFETY: the same.
        let stray = unsafe { words::first_other(pointer(page), ONE, range) };
        change == expected && stray == expected
    };
    page_words.iter().enumerate().all(|(at, word)| {
        word.store(OTHER, Ordering::Relaxed);
        let first = (at + 1).saturating_sub(STARTS);
        let are_found = (first..=at + 1).chain([0]).all(|start| finds(at, start));
        word.store(ONE, Ordering::Relaxed);
        are_found
    })
}

fn pointer(page: u64) -> *mut u64 {
    core::ptr::with_exposed_provenance_mut(page as usize)
}
