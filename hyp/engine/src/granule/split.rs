//! Splits: the pages that a direct granule keeps move to a frame of the pool while devices use
//! them.
//!
//! The pages stay broken from the copy until the hardware has drained. Until then some devices use
//! the frame already and others still the page at home, so no store of a CPU may reach only one of
//! the two.

use oche_types::Invariant;
use oche_types::addr::{Gfn, Hfn};
use oche_types::event::Event;

use crate::granule::copies::apply_diff;
use crate::granule::plan::Split;
use crate::granule::state::Slot;
use crate::granule::work::{SplitFrame, UnmapOp};
use crate::granule::{GranuleMapper, Requester};
use crate::host::{DomainId, Host};

impl GranuleMapper {
    /// Takes the memory for `split`, which a plan has found to be there.
    pub(super) fn take_split_frame(&mut self, split: Split) -> SplitFrame {
        let frame = self.pool.take_frame().must("a plan takes no frame that is not there");
        let copied = split.is_written.map(|is_written| {
            is_written.then(|| self.pool.take_page().must("a plan takes no page that is not there"))
        });
        SplitFrame { frame, copied }
    }

    /// Copies what a split granule keeps, whose pages are broken, to its new frame.
    pub(super) fn copy_split(&self, host: &mut impl Host, op: &UnmapOp) {
        let Some(split) = op.split else { return };
        for (slot, kept) in op.kept() {
            host.copy_page(self.mover.locate(kept.page), split.frame.page(slot));
            if let Some(Some(copied)) = split.copied.get(slot) {
                host.copy_page(split.frame.page(slot), *copied);
            }
        }
    }

    /// Completes a split after the hardware has drained: merges what devices wrote into the pages
    /// at home after they were copied, and makes the new frame the place of the pages.
    pub(super) fn complete_split(
        &mut self,
        host: &mut impl Host,
        requester: Requester,
        domain: DomainId,
        op: &UnmapOp,
    ) {
        let Some(split) = op.split else { return };
        let mut after = op.after;
        // Set before `is_mapped_at_home` is called: this granule no longer keeps its pages at home.
        self.set_state(domain, op.granule, &after);
        let mut merged_bytes = 0;
        for (index, slot) in after.slots.iter_mut().enumerate() {
            let Some(kept) = slot else { continue };
            let home = self.mover.locate(kept.page);
            let to = split.frame.page(index);
            let copied = split.copied.get(index).copied().flatten();
            if let Some(copied) = copied {
                merged_bytes += apply_diff(host, copied, home, to, true) as u32;
            }
            kept.is_bounce = self.is_mapped_at_home(kept.page) || self.mover.is_pinned(kept.page);
            if kept.is_bounce {
                // The page stays at home for another granule or a bus master, so what devices wrote
                // into this frame so far is copied there too.
                if let Some(copied) = copied {
                    apply_diff(host, copied, to, home, false);
                }
            } else {
                self.mover.place(host, kept.page, to);
            }
        }
        self.set_state(domain, op.granule, &after);
        for (slot, copied) in after.slots.iter().zip(split.copied) {
            let Some(copied) = copied else { continue };
            match slot {
                Some(slot) if slot.is_bounce => self.add_twin_if_written(host, slot, copied),
                _ => self.pool.give_page(host, copied),
            }
        }
        host.event(Event::LiveMove {
            at: requester.at(op.granule, 0),
            to: split.frame,
            merged_bytes,
        });
    }

    /// Makes `spare` the twin of a broken page at home of which `slot` has just become a bounce
    /// page, or returns it to the pool if the page needs none.
    fn add_twin_if_written(&mut self, host: &mut impl Host, slot: &Slot, spare: Hfn) {
        let is_written = slot.permission.write || self.mover.is_pinned(slot.page);
        if self.twin(slot.page).is_some() || !is_written {
            self.pool.give_page(host, spare);
        } else {
            host.copy_page(self.mover.locate(slot.page), spare);
            self.mover.state_mut(slot.page).twin = spare.0;
        }
        self.merge_copies(host, slot.page);
    }

    /// Whether the break of `page`, of which a mapping was removed, lets it go home or lets a
    /// bounce page of it be promoted.
    pub(super) fn has_to_move(&self, page: Gfn) -> bool {
        if self.mover.is_home(page) {
            self.promotable(page).is_some()
        } else {
            self.has_only_bounce_pages(page)
        }
    }
}
