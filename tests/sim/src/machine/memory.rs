//! The engine's access to memory.

use super::SimulatedMachine;
use crate::allocations::outside;
use crate::setup::FaultInjection;
use oche_engine::host::Memory;
use oche_types::addr::{Hfn, HostGranule, PAGE_BYTES, PAGE_WORDS};
use std::ops::Range;

#[expect(unsafe_code, reason = "a model of the machine")]
// SAFETY: it accesses only memory of the model, which is the test's own.
unsafe impl<const CACHES_INVALID: bool> Memory for SimulatedMachine<CACHES_INVALID> {
    fn load(&self, page: Hfn, word: usize) -> u64 {
        let _side = outside();
        self.touch(8);
        match self.memory.index(page) {
            Some(index) if word < PAGE_WORDS => self.memory.word(index, word),
            _ => {
                self.violate(format!(
                    "the engine loads word {word} of {page:?}, which is no memory of its"
                ));
                0
            }
        }
    }

    fn store(&mut self, page: Hfn, word: usize, value: u64) {
        let _side = outside();
        self.touch(8);
        self.tick();
        match self.memory.index(page) {
            Some(index) if word < PAGE_WORDS => {
                self.note_store(page);
                if self.frames.is_table(page) {
                    self.note_entry(page, word, self.memory.word(index, word), value);
                }
                self.memory.set_word(index, word, value);
            }
            _ => self.violate(format!(
                "the engine stores word {word} of {page:?}, which is no memory of its"
            )),
        }
    }

    fn store_aligned(&mut self, page: Hfn, offset: usize, width_log2: u8, value: u64) {
        let _side = outside();
        self.touch(8);
        self.tick();
        let bytes = 1 << width_log2;
        match self.memory.index(page) {
            Some(index)
                if width_log2 <= 3 && offset < PAGE_BYTES && offset.is_multiple_of(bytes) =>
            {
                self.note_store(page);
                self.memory.set_bytes(index, offset, &value.to_le_bytes()[..bytes]);
            }
            _ => self.violate(format!("the engine stores {bytes} bytes at {offset} of {page:?}")),
        }
    }

    fn first_difference(&self, one: Hfn, other: Hfn, words: Range<usize>) -> Option<usize> {
        let _side = outside();
        if self.injects(FaultInjection::SkipMerge) {
            return None;
        }
        self.cpus.checker().note_comparison(one);
        self.cpus.checker().note_comparison(other);
        let (one, other) = (self.place_of_engine(one)?, self.place_of_engine(other)?);
        if self.memory.are_known_equal(one, other) {
            self.touch(16 * words.len());
            return None;
        }
        let (one_words, other_words) = (self.memory.page(one), self.memory.page(other));
        let first = first_unequal(one_words.get(words.clone())?, other_words.get(words.clone())?);
        if first.is_none() && words == (0..PAGE_WORDS) {
            self.memory.note_equal(one, other);
        }
        self.touch(16 * first.map_or(words.len(), |word| word + 1));
        first.map(|word| words.start + word)
    }

    fn first_change(&self, page: Hfn, known: &[u64; PAGE_WORDS], word: usize) -> Option<usize> {
        let _side = outside();
        let words = known.get(word..)?;
        let first = first_unequal(self.page_of_engine(page)?.get(word..)?, words);
        self.touch(8 * first.map_or(words.len(), |index| index + 1));
        first.map(|index| word + index)
    }

    fn first_other(&self, page: Hfn, value: u64, word: usize) -> Option<usize> {
        let _side = outside();
        let found = self.memory.first_other(self.place_of_engine(page)?, value, word);
        self.touch(8 * (found.unwrap_or(PAGE_WORDS) - word));
        found
    }

    fn copy_page(&mut self, from: Hfn, to: Hfn) {
        let _side = outside();
        self.touch(2 * PAGE_BYTES);
        if self.injects(FaultInjection::SkipCopyHome) && self.memory.is_ram(to) {
            return;
        }
        let to_page = to;
        if let (true, Some(from), Some(to)) =
            (self.is_quiet(), self.memory.index(from), self.memory.index(to))
        {
            self.memory.copy(from, to);
            self.note_store(to_page);
            return;
        }
        self.copy_disturbed(from, to, 0..PAGE_WORDS);
    }

    fn copy_words(&mut self, from: Hfn, to: Hfn, words: Range<usize>) {
        let _side = outside();
        self.touch(16 * words.len());
        self.copy_disturbed(from, to, words);
    }

    fn fill_page(&mut self, page: Hfn, value: u64) {
        let _side = outside();
        self.touch(PAGE_BYTES);
        if self.injects(FaultInjection::SkipFill) {
            return;
        }
        if let (true, false, Some(index)) =
            (self.is_quiet(), self.frames.is_table(page), self.memory.index(page))
        {
            self.memory.fill(index, value);
            self.note_store(page);
            return;
        }
        let place = self.memory.index(page);
        let mut word = 0;
        while word < PAGE_WORDS {
            let many =
                if self.frames.is_table(page) { 0 } else { self.undisturbed(PAGE_WORDS - word) };
            if let (Some(place), true) = (place, many != 0) {
                self.pass(many);
                self.note_store(page);
                self.memory.page_mut(place)[word..word + many].fill(value);
                word += many;
            } else {
                self.store(page, word, value);
                word += 1;
            }
        }
    }

    fn release(&mut self, frame: HostGranule) {
        let _side = outside();
        let board = self.options.board;
        if let Err(text) = self.frames.release(&self.memory, board, &self.cpus, frame) {
            self.violate(text);
        }
    }
}

impl<const CACHES_INVALID: bool> SimulatedMachine<CACHES_INVALID> {
    /// Copies words while devices and CPUs go on.
    fn copy_disturbed(&mut self, from: Hfn, to: Hfn, words: Range<usize>) {
        let places = (self.memory.index(from), self.memory.index(to));
        let mut word = words.start;
        while word < words.end {
            let many =
                if self.frames.is_table(to) { 0 } else { self.undisturbed(words.end - word) };
            if let ((Some(source), Some(target)), true) = (places, many != 0) {
                self.pass(many);
                self.note_store(to);
                self.memory.copy_words(source, target, word..word + many);
                word += many;
            } else {
                let value = self.load(from, word);
                self.store(to, word, value);
                word += 1;
            }
        }
    }
}

/// The first place in which two equally long pieces of pages differ.
fn first_unequal(one: &[u64], other: &[u64]) -> Option<usize> {
    // Nearly always they are equal, and that is found out much faster at once.
    if one == other { None } else { one.iter().zip(other).position(|(one, other)| one != other) }
}
