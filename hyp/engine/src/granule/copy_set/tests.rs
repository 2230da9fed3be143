//! Stores into copies, while a device writes one of them.

use oche_types::Invariant;
use oche_types::addr::{Gfn, Hfn};

use super::{CopySet, Parts};
use crate::host::Memory;

/// Bytes of a page that the tests look at.
const BYTES: usize = 32;
/// The page itself, a bounce page that devices write, one that they read, and the twin.
const PAGES: usize = 4;
const TWIN: usize = 3;
/// The values of bytes: at first, from the device, and from the CPU.
const OLD: u8 = 0x11;
const DEVICE: u8 = 0x22;
const CPU: u8 = 0x33;

type Page = [u8; BYTES];

/// Memory in which a device writes all of a page, before the CPU's store with number `when`.
struct Raced {
    pages: [Page; PAGES],
    written: usize,
    when: usize,
    stores: usize,
}

impl Raced {
    fn new(written: usize, when: usize) -> Self {
        Self { pages: [[OLD; BYTES]; PAGES], written, when, stores: 0 }
    }

    fn page(&self, page: usize) -> &Page {
        self.pages.get(page).must("the page exists")
    }

    fn device_writes(&mut self) {
        *self.pages.get_mut(self.written).must("the page exists") = [DEVICE; BYTES];
    }
}

#[expect(unsafe_code, reason = "a model of memory")]
// SAFETY: it accesses only memory of the model, which is the test's own.
unsafe impl Memory for Raced {
    fn load(&self, page: Hfn, word: usize) -> u64 {
        let words = self.page(page.0 as usize).as_chunks().0;
        u64::from_le_bytes(*words.get(word).must("the word exists"))
    }

    fn store(&mut self, page: Hfn, word: usize, value: u64) {
        self.store_aligned(page, 8 * word, 3, value);
    }

    fn store_aligned(&mut self, page: Hfn, offset: usize, width_log2: u8, value: u64) {
        if self.stores == self.when {
            self.device_writes();
        }
        self.stores += 1;
        let bytes = self.pages.get_mut(page.0 as usize).must("the page exists").iter_mut();
        let stored = bytes.skip(offset).take(1 << width_log2);
        stored.zip(value.to_le_bytes()).for_each(|(byte, value)| *byte = value);
    }
}

fn copies() -> CopySet {
    let mut set = CopySet::new(Gfn(0), 0, Hfn(0));
    assert!(set.add(Hfn(1), true) && set.add(Hfn(2), false), "there is room");
    set.twin = Some(Hfn(TWIN as u32));
    set
}

/// Stores with the device's write at `when`. Returns the memory, and the number of stores.
fn store(written: usize, when: usize, offset: usize, parts: Parts) -> Raced {
    let mut memory = Raced::new(written, when);
    let value = u64::from_le_bytes([CPU; 8]);
    assert!(copies().store_parts(&mut memory, offset, parts, [value; 2]), "it is aligned");
    if memory.stores <= when {
        memory.device_writes();
    }
    memory
}

#[test]
fn a_store_needs_no_merge_before_whenever_a_device_writes_a_copy() {
    let shapes = [(8, 1), (8, 2), (4, 1), (4, 2), (2, 1), (1, 1)];
    let writers = (0..TWIN).flat_map(|written| shapes.map(|shape| (written, shape)));
    for (written, (bytes, count)) in writers {
        let offset = 8 + bytes % 8;
        let is_stored = |at: usize| (offset..offset + count * bytes).contains(&at);
        let total = PAGES * count;
        for when in 0..=total {
            let memory = store(written, when, offset, Parts { bytes, count });
            assert_eq!(memory.stores, total);
            for at in 0..BYTES {
                let byte = |page| memory.page(page).get(at).copied();
                let new = if is_stored(at) { CPU } else { OLD };
                for page in (0..PAGES).filter(|page| *page != written) {
                    assert_eq!(byte(page), Some(new), "byte {at} of page {page}");
                }
                // What the device wrote last is there and differs from the twin.
                let is_lost = is_stored(at) && byte(written) == Some(CPU);
                assert!(is_lost || byte(written) == Some(DEVICE), "byte {at}");
                assert!(!is_lost || when < total, "the device wrote byte {at} last");
                assert!(is_lost || !is_stored(at) || when > 0, "the CPU wrote byte {at} last");
            }
        }
    }
}
