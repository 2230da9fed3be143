//! Keeping the copies of an alias equal, by difference against what all last agreed on.

use core::ops::Range;

use oche_types::Invariant;
use oche_types::addr::{Gfn, Hfn, PAGE_WORDS};
use oche_types::event::Event;

use crate::granule::GranuleMapper;
use crate::granule::alias::Mapping;
use crate::granule::state::{Form, Slot};
use crate::granule::work::MergeCopy;
use crate::host::{Host, Memory};

impl GranuleMapper {
    /// The slot that `mapping`, which is in the list of a page, is, and the frame page that backs
    /// it.
    pub(super) fn slot_of(&self, mapping: Mapping) -> (Slot, Form, Hfn) {
        self.linked_slot(mapping).must("a page's mapping is in the granule map")
    }

    /// As [`Self::slot_of`], of a mapping that may be linked and not yet written into the granule
    /// map.
    fn linked_slot(&self, mapping: Mapping) -> Option<(Slot, Form, Hfn)> {
        let state = self.state(mapping.domain, mapping.iova.granule());
        let slot = state.slots.get(mapping.iova.slot()).copied().flatten()?;
        match state.form {
            Form::Direct(frame) | Form::Relocated(frame) => {
                Some((slot, state.form, frame.page(mapping.iova.slot())))
            }
            Form::Empty => None,
        }
    }

    /// The mappings of `page`.
    pub(super) fn mappings(&self, page: Gfn) -> impl Iterator<Item = Mapping> {
        self.aliases.iter(self.mover.get(page).map_or(crate::mover::NONE, |state| state.mappings))
    }

    /// Bounce pages of `page`: where they lie and whether a device may write them.
    pub(super) fn bounce_pages(&self, page: Gfn) -> impl Iterator<Item = (Hfn, bool)> {
        self.mappings(page)
            .filter_map(|mapping| self.linked_slot(mapping))
            .filter(|(slot, _, _)| slot.is_bounce && slot.is_filled)
            .map(|(slot, _, at)| (at, slot.permission.write))
    }

    /// Whether `page` is reached at home by a direct granule, so that it cannot leave.
    pub(super) fn is_mapped_at_home(&self, page: Gfn) -> bool {
        self.mappings(page)
            .filter_map(|mapping| self.linked_slot(mapping))
            .any(|(_, form, _)| matches!(form, Form::Direct(_)))
    }

    /// Makes all copies of `page` equal: see [`Self::propagate`]. A page without a bounce page that
    /// a device may write has no twin, and devices change none of its copies but the one that CPUs
    /// see.
    pub(crate) fn merge_copies(&mut self, host: &mut impl Host, page: Gfn) {
        self.propagate(host, page, 0..PAGE_WORDS);
    }

    /// Makes all copies of the words `words` of `page` equal. What a device wrote into one, or into
    /// the page itself, differs from the twin and goes to all others and into the twin.
    ///
    /// Devices may write meanwhile. Each byte that changed is
    /// read once and stored, without its neighbours, into every copy but the one that it was read
    /// from: a write that comes later differs from the twin, which holds what was read, and the
    /// next merge finds it, even if it restores what stood there before. Where two wrote the same
    /// byte since the last merge, one of them wins.
    ///
    /// The work is bounded by the copies times the words, whatever differs.
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
        while let Some(first) = first_changed(host, twin, &copies, start..words.end) {
            start = first;
            while start < words.end {
                let merged = propagate_word(host, twin, &mut copies, start);
                start += 1;
                // What changed mostly lies together: the search begins anew behind it.
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

    /// The page that holds what the copies of `page` last agreed on.
    pub(super) fn twin(&self, page: Gfn) -> Option<Hfn> {
        self.mover.get(page).map(|state| state.twin).filter(|twin| *twin != 0).map(Hfn)
    }

    /// Gives the twin of `page` back once no device may write a bounce page of it.
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

    /// After a mapping of `page` went that was no bounce page, its copies being equal if there is a
    /// twin: makes a bounce page the page itself unless a mapping that is none is left. The page
    /// must be out of the CPUs' reach; otherwise it stays where it is.
    pub(super) fn promote(&mut self, host: &mut impl Host, page: Gfn) {
        let promotable = self.promotable(page).filter(|_| self.mover.can_move(page));
        let Some((mapping, promotable, at)) = promotable else { return };
        if !promotable.permission.write {
            // Without one, CPUs may have written the page since the bounce page was filled. With or
            // without, a device that a neighbour's permission let write here wrote what no one
            // may see.
            host.copy_page(self.mover.locate(page), at);
        }
        self.mover.place(host, page, at);
        let mut state = self.state(mapping.domain, mapping.iova.granule());
        state.mapped_mut(mapping.iova.slot()).is_bounce = false;
        self.set_state(mapping.domain, mapping.iova.granule(), state);
    }

    /// The bounce page that `page` can become, if it has to become one: with its slot and where it
    /// lies.
    ///
    /// Where there is a choice it is one that a device may write: the fewer of those remain, the
    /// less has to be trapped.
    fn promotable(&self, page: Gfn) -> Option<(Mapping, Slot, Hfn)> {
        if self.mover.is_pinned(page) {
            return None;
        }
        let mut promotable: Option<(Mapping, Slot, Hfn)> = None;
        for mapping in self.mappings(page) {
            let state = self.state(mapping.domain, mapping.iova.granule());
            match self.slot_of(mapping) {
                (slot, ..) if slot.is_bounce && self.is_private(&state, &slot) => {}
                (slot, _, at) if slot.is_bounce => {
                    let is_better =
                        promotable.is_none_or(|(_, promotable, _)| !promotable.permission.write);
                    if is_better && (promotable.is_none() || slot.permission.write) {
                        promotable = Some((mapping, slot, at));
                    }
                }
                _ => return None,
            }
        }
        promotable
    }
}

/// The first of `words` in which a copy differs from `twin`.
fn first_changed(
    host: &impl Host,
    twin: Hfn,
    copies: &[MergeCopy],
    mut words: Range<usize>,
) -> Option<usize> {
    let mut first = None;
    for copy in copies.iter().filter(|copy| copy.is_writable) {
        if let Some(word) = host.first_difference(twin, copy.at, words.clone()) {
            first = Some(word);
            words.end = word;
        }
    }
    first
}

/// Brings each byte of `word` in which a copy differs from `twin` to the others and to `twin`.
/// Returns how many there were.
fn propagate_word(host: &mut impl Host, twin: Hfn, copies: &mut [MergeCopy], word: usize) -> u32 {
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

/// Stores into `to` each byte in which `changed` differs from `twin`, except, if `keeps_newer`,
/// where `to` differs as well: a device's own, newer write stays. Returns how many bytes differed.
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

/// Stores the bytes of `value` that `mask` has as 0xff into a word of `to`, and touches no other.
pub(super) fn store_bytes(memory: &mut impl Memory, to: Hfn, word: usize, mask: u64, value: u64) {
    Pieces::of(mask).store(memory, to, word, value);
}

/// Some bytes of a word in pieces of 1, 2, 4 or 8 bytes, as long as can be: at most one for each
/// two bytes.
struct Pieces {
    /// The first byte, and the logarithm of how many bytes.
    pieces: [(u8, u8); 4],
    count: usize,
}

impl Pieces {
    /// The bytes that `mask` has as 0xff.
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
