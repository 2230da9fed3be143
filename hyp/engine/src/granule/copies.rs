//! Making the copies of a page equal, by diffing each against the twin.

use core::ops::Range;

use oche_types::Invariant;
use oche_types::addr::{Gfn, Hfn, PAGE_WORDS};
use oche_types::event::Event;

use crate::granule::GranuleMapper;
use crate::granule::alias::Mapping;
use crate::granule::state::{Form, Slot};
use crate::granule::work::MergeCopy;
use crate::host::{Host, Memory};

const WORD_BYTES: usize = size_of::<u64>();
/// A shorter run is made equal word by word: that costs less than to begin a run.
const SHORTEST_RUN: usize = 2;

impl GranuleMapper {
    /// The slot of `mapping`, which is in the list of a page, with its granule's form and the host
    /// page that backs it.
    pub(super) fn slot_of(&self, mapping: Mapping) -> (Slot, Form, Hfn) {
        self.linked_slot(mapping).must("a page's mapping is in the granule map")
    }

    /// As [`Self::slot_of`], for a mapping that may be in the list of a page and not yet in the
    /// granule map.
    fn linked_slot(&self, mapping: Mapping) -> Option<(Slot, Form, Hfn)> {
        let (directory, index) = (&self.placed(mapping.domain).directory, mapping.iova.slot());
        let (slot, form) = self.granule_map.slot(directory, mapping.iova.granule(), index)?;
        match form {
            Form::Direct(frame) | Form::Relocated(frame) => Some((slot, form, frame.page(index))),
            Form::Empty => None,
        }
    }

    /// The mappings of `page`.
    pub(super) fn mappings(&self, page: Gfn) -> impl Iterator<Item = Mapping> {
        self.aliases.iter(self.mover.get(page).map_or(crate::mover::NONE, |state| state.mappings))
    }

    /// How many mappings `page` has.
    #[inline]
    pub(super) fn count_mappings(&self, page: Gfn) -> usize {
        self.mover.get(page).map_or(0, |state| self.aliases.count(state.mappings))
    }

    /// The filled bounce pages of `page`: the host page of each, and whether a device may write it.
    pub(super) fn bounce_pages(&self, page: Gfn) -> impl Iterator<Item = (Hfn, bool)> {
        self.mappings(page)
            .filter_map(|mapping| self.linked_slot(mapping))
            .filter(|(slot, _, _)| slot.is_bounce && slot.is_filled)
            .map(|(slot, _, at)| (at, slot.permission.write))
    }

    /// Whether a direct granule maps `page` at home, so that the page cannot move.
    pub(super) fn is_mapped_at_home(&self, page: Gfn) -> bool {
        self.mappings(page)
            .filter_map(|mapping| self.linked_slot(mapping))
            .any(|(_, form, _)| matches!(form, Form::Direct(_)))
    }

    /// Makes all copies of `page` equal: see [`Self::propagate`]. Does nothing for a page without a
    /// twin: none of its bounce pages is written by a device.
    pub(crate) fn merge_copies(&mut self, host: &mut impl Host, page: Gfn) {
        self.propagate(host, page, 0..PAGE_WORDS);
    }

    /// Makes all copies of the words `words` of `page` equal. What a device wrote into a copy, or
    /// into the page itself, differs from the twin, and is copied to all other copies and to the
    /// twin.
    ///
    /// Devices may write meanwhile. Each byte that changed is read once and stored, without its
    /// neighbours, into every copy except the one that it was read from. A later write differs from
    /// the twin, which holds what was read, so the next merge finds it, even if it restores the
    /// value before. If two devices wrote the same byte since the last merge, one of them wins.
    ///
    /// The work is at most the number of copies times the number of words.
    pub(super) fn propagate(&mut self, host: &mut impl Host, page: Gfn, words: Range<usize>) {
        let Some(twin) = self.twin(page) else { return };
        let mut copies = core::mem::take(&mut self.merging);
        copies.extend(self.bounce_pages(page).map(|(at, is_writable)| MergeCopy {
            at,
            is_writable,
            diff: 0,
        }));
        copies.push(MergeCopy { at: self.mover.locate(page), is_writable: true, diff: 0 });
        let (mut bytes, mut changed) = (0, 0);
        let mut start = words.start;
        while let Some((first, source)) = first_changed(host, twin, &copies, start..words.end) {
            start = first;
            while start < words.end {
                let copied = copy_run(host, twin, &copies, source, start..words.end);
                start += copied;
                changed += copied;
                bytes += (copied * WORD_BYTES) as u32;
                if start == words.end {
                    break;
                }
                let merged = propagate_word(host, twin, &mut copies, start);
                start += 1;
                // Changed words are mostly adjacent: search again from the first unchanged one.
                if merged == 0 {
                    break;
                }
                bytes += merged;
                changed += 1;
            }
        }
        self.merged_words = self.merged_words.wrapping_add(changed * copies.len());
        copies.clear();
        self.merging = copies;
        if bytes != 0 {
            host.event(Event::Merged { page, bytes });
        }
    }

    /// The twin of `page`, if it has one.
    pub(super) fn twin(&self, page: Gfn) -> Option<Hfn> {
        self.mover.get(page).map(|state| state.twin).filter(|twin| *twin != 0).map(Hfn)
    }

    /// Returns the twin of `page` to the pool if no device may write a bounce page of it.
    pub(super) fn drop_unneeded_twin(&mut self, host: &mut impl Host, page: Gfn) {
        let Some(twin) = self.twin(page) else { return };
        let is_written_by_master =
            self.mover.is_pinned(page) && self.bounce_pages(page).next().is_some();
        if is_written_by_master || self.bounce_pages(page).any(|(_, is_writable)| is_writable) {
            return;
        }
        self.pool.give_page(host, twin);
        self.mover.state_mut(page).twin = 0;
    }

    /// Promotes a bounce page of `page` to be the page itself, if only bounce pages map it. Called
    /// after a mapping of the page was removed, with equal copies if it has a twin. A page that is
    /// not broken stays where it is.
    pub(super) fn promote(&mut self, host: &mut impl Host, page: Gfn) {
        let promotable = self.promotable(page).filter(|_| self.mover.can_move(page));
        let Some((mapping, slot, at)) = promotable else { return };
        if !slot.permission.write {
            // A device that may write only a neighbour in the granule may have written this slot,
            // which the guest must not see. Without a twin, CPUs may also have written the page
            // since the slot was filled.
            host.copy_page(self.mover.locate(page), at);
        }
        self.mover.place(host, page, at);
        let mut state = *self.state(mapping.domain, mapping.iova.granule());
        state.mapped_mut(mapping.iova.slot()).is_bounce = false;
        self.set_state(mapping.domain, mapping.iova.granule(), &state);
    }

    /// The bounce page to promote if only bounce pages map `page`: its mapping, slot and host page.
    ///
    /// One that a device may write is preferred: the fewer of those are left, the less has to be
    /// trapped.
    pub(super) fn promotable(&self, page: Gfn) -> Option<(Mapping, Slot, Hfn)> {
        if self.mover.is_pinned(page) {
            return None;
        }
        let mut best: Option<(Mapping, Slot, Hfn)> = None;
        for mapping in self.mappings(page) {
            let state = self.state(mapping.domain, mapping.iova.granule());
            match self.slot_of(mapping) {
                (slot, ..) if slot.is_bounce && self.is_private(state, &slot) => {}
                (slot, _, at) if slot.is_bounce => {
                    let is_better = best.is_none_or(|(_, best, _)| !best.permission.write);
                    if is_better && (best.is_none() || slot.permission.write) {
                        best = Some((mapping, slot, at));
                    }
                }
                _ => return None,
            }
        }
        best
    }
}

/// The first of `words` in which a copy differs from `twin`, and the index of that copy.
fn first_changed(
    host: &impl Host,
    twin: Hfn,
    copies: &[MergeCopy],
    mut words: Range<usize>,
) -> Option<(usize, usize)> {
    let mut first = None;
    for (index, copy) in copies.iter().enumerate().filter(|(_, copy)| copy.is_writable) {
        if let Some(word) = host.first_difference(twin, copy.at, words.clone()) {
            first = Some((word, index));
            words.end = word;
        }
    }
    first
}

/// Copies the first of `words` from the copy `source` to `twin` and to all other copies, as long as
/// all of their bytes differ from `twin`, and returns how many. Does nothing if it is but one.
///
/// No byte is stored that `source` did not change: a byte of those words that differs in another
/// copy as well was written by two devices. The twin, which only this code writes, is filled first,
/// and the others from it, so that each word of `source` is read once.
fn copy_run(
    host: &mut impl Host,
    twin: Hfn,
    copies: &[MergeCopy],
    source: usize,
    words: Range<usize>,
) -> usize {
    let changed = copies.get(source).must("the index is of one of these copies").at;
    let count = host.wholly_changed(twin, changed, words.clone());
    if count < SHORTEST_RUN {
        return 0;
    }
    let run = words.start..words.start + count;
    host.copy_words(changed, twin, run.clone());
    for (_, copy) in copies.iter().enumerate().filter(|(index, _)| *index != source) {
        host.copy_words(twin, copy.at, run.clone());
    }
    count
}

/// Copies each byte of `word` in which a copy differs from `twin` to the other copies and to
/// `twin`. Returns how many bytes differed.
fn propagate_word(host: &mut impl Host, twin: Hfn, copies: &mut [MergeCopy], word: usize) -> u32 {
    let old = host.load(twin, word);
    let mut changed = None;
    for (index, copy) in copies.iter().enumerate().filter(|(_, copy)| copy.is_writable) {
        let new = host.load(copy.at, word);
        if new != old && changed.replace((index, new)).is_some() {
            return propagate_several(host, twin, copies, word);
        }
    }
    let Some((source, new)) = changed else { return 0 };
    let diff = differing_bytes(old, new);
    let pieces = if diff == u64::MAX { None } else { Some(Pieces::of(diff)) };
    for (_, copy) in copies.iter().enumerate().filter(|(index, _)| *index != source) {
        match &pieces {
            Some(pieces) if copy.is_writable => pieces.store(host, copy.at, word, new),
            _ => host.store(copy.at, word, new),
        }
    }
    host.store(twin, word, new);
    diff.count_ones() / 8
}

/// As [`propagate_word`], for a word in which several copies may differ.
fn propagate_several(
    host: &mut impl Host,
    twin: Hfn,
    copies: &mut [MergeCopy],
    word: usize,
) -> u32 {
    let old = host.load(twin, word);
    let (mut value, mut taken) = (old, 0);
    for copy in copies.iter_mut().filter(|copy| copy.is_writable) {
        let new = host.load(copy.at, word);
        copy.diff = differing_bytes(old, new) & !taken;
        taken |= copy.diff;
        value = value & !copy.diff | new & copy.diff;
    }
    if taken == 0 {
        return 0;
    }
    let all = Pieces::of(taken);
    for copy in copies.iter() {
        let pieces = match copy {
            MergeCopy { is_writable: false, .. } => {
                host.store(copy.at, word, value);
                continue;
            }
            MergeCopy { diff: 0, .. } => &all,
            _ => &Pieces::of(taken & !copy.diff),
        };
        pieces.store(host, copy.at, word, value);
    }
    host.store(twin, word, value);
    taken.count_ones() / 8
}

/// Stores into `to` each byte in which `changed` differs from `twin`. With `keeps_newer`, bytes in
/// which `to` differs from `twin` too are left as they are: a device has written them since.
/// Returns how many bytes differed.
pub(super) fn apply_diff(
    memory: &mut impl Memory,
    twin: Hfn,
    changed: Hfn,
    to: Hfn,
    keeps_newer: bool,
) -> usize {
    let mut bytes = 0;
    let mut start = 0;
    while let Some(word) = memory.first_difference(twin, changed, start..PAGE_WORDS) {
        start = word + 1;
        let (new, old, there) =
            (memory.load(changed, word), memory.load(twin, word), memory.load(to, word));
        let differing = differing_bytes(old, new);
        bytes += differing.count_ones() as usize / 8;
        let kept = if keeps_newer { differing_bytes(there, old) } else { 0 };
        store_bytes(memory, to, word, differing & !kept, new);
    }
    bytes
}

/// 0xff in each byte in which two words differ.
pub(super) fn differing_bytes(one: u64, other: u64) -> u64 {
    let mut bits = one ^ other;
    bits |= bits >> 4;
    bits |= bits >> 2;
    bits |= bits >> 1;
    (bits & 0x0101_0101_0101_0101) * 0xff
}

/// Stores the bytes of `value` whose byte in `mask` is 0xff into a word of `to`, and no others.
pub(super) fn store_bytes(memory: &mut impl Memory, to: Hfn, word: usize, mask: u64, value: u64) {
    Pieces::of(mask).store(memory, to, word, value);
}

/// Some bytes of a word, as aligned pieces of 1, 2, 4 or 8 bytes, as few as possible. There are at
/// most four: two adjacent bytes never need more than one piece each.
struct Pieces {
    /// The first byte, and the base-2 logarithm of the number of bytes.
    pieces: [(u8, u8); 4],
    count: usize,
}

impl Pieces {
    /// The bytes that are 0xff in `mask`.
    fn of(mask: u64) -> Self {
        let mut all = Self { pieces: [(0, 0); 4], count: 0 };
        let mut index = 0;
        while let Some(left) = mask.checked_shr(8 * index).filter(|left| *left != 0) {
            index += left.trailing_zeros() / 8;
            let following = (mask >> (8 * index)).trailing_ones() / 8;
            let width_log2 = following.ilog2().min((index | 8).trailing_zeros());
            let piece =
                all.pieces.get_mut(all.count).must("two bytes beside each other are one piece");
            *piece = (index as u8, width_log2 as u8);
            all.count += 1;
            index += 1 << width_log2;
        }
        all
    }

    fn store(&self, memory: &mut impl Memory, to: Hfn, word: usize, value: u64) {
        for (first, width_log2) in self.pieces.iter().take(self.count) {
            memory.store_aligned(
                to,
                word * 8 + usize::from(*first),
                *width_log2,
                value >> (8 * first),
            );
        }
    }
}
