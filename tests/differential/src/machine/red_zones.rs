//! Accesses of devices to where nothing is mapped in a granule that is mapped in part.

use super::transfer::{ExpectedRead, Transfer};
use super::{Checked, Machine};
use crate::history::Reach;
use oche_sim::access::DeviceResult;
use oche_types::addr::{Gfn, Hfn};

impl<const C: bool> Machine<C> {
    pub(super) fn judge_red_zone(
        &mut self,
        transfer: &Transfer,
        result: DeviceResult,
        at: Hfn,
        owner: Option<Gfn>,
        is_partly_mapped: bool,
    ) -> Checked {
        let DeviceResult::Accepted { id, .. } = result else { return Ok(()) };
        if !is_partly_mapped {
            return Err(format!(
                "{transfer} is accepted (at {at:?}), where nothing of the granule is mapped"
            ));
        }
        if !transfer.is_overlapped
            && let Some(page) = owner.or(self.host.deserted_by(at))
        {
            return Err(format!("{transfer} reaches {page:?} at {at:?}, where nothing is mapped"));
        }
        if self.is_outside_window(transfer) {
            return Err(format!(
                "{transfer} is accepted (at {at:?}), outside of what is mapped of the granule"
            ));
        }
        self.counts.red_zones += 1;
        // Where the registers changed and no flush came yet, the old tables count as well as the
        // new.
        let possible = self.history.possible_roots(transfer.dart, transfer.stream);
        let is_certain = possible.is_certain();
        let keys = || possible.iter().flatten().map(|roots| (roots, transfer.iova_page()));
        if transfer.data.is_some() {
            self.host.deliver(|pending| pending.id == id);
            self.note_stray(transfer);
            // Tables that were refused once may have been taken since: then the page is there after
            // all.
            let is_unsure = keys().any(|key| self.refused_tables.contains(key.0, key.1));
            for key in keys() {
                // In the middle of a sync it may be found by that sync or by the next. One byte or
                // two can be the pattern's own by chance. Where something is mapped that may only
                // be read, the bytes lie in a copy that no other device sees.
                let is_empty = !self.is_mapped(transfer);
                let must_report = is_empty
                    && !is_unsure
                    && is_certain
                    && transfer.length >= 4
                    && !transfer.is_overlapped
                    && !self.views_are_changing(transfer);
                if !is_empty || is_unsure {
                    self.strays.insert(key.0, key.1);
                    self.late_strays.extend(transfer.is_overlapped.then_some(key));
                }
                let known = self.red_zones.entry(key).or_insert(must_report);
                *known |= must_report;
                self.late_red_zones.extend(transfer.is_overlapped.then_some(key));
            }
            return Ok(());
        }
        // In the middle of a sync it may be about to be refused.
        if self.is_mapped(transfer) && !transfer.is_overlapped && !self.views_are_changing(transfer)
        {
            return Err(format!(
                "{transfer} is accepted, where a page is mapped that may only be written"
            ));
        }
        let is_clean = !self.red_zones.keys().any(|(_, page)| *page == transfer.iova_page());
        if is_clean && !transfer.is_overlapped && !self.views_are_changing(transfer) {
            let bytes = vec![None; transfer.length];
            self.reads.insert(
                id,
                ExpectedRead { transfer: *transfer, page: None, bytes, is_red_zone: true },
            );
            self.host.deliver(|pending| pending.id == id);
            return self.check_answers_at(transfer.offset());
        }
        Ok(())
    }

    /// Whether hardware must refuse the access because no page on one side of it is mapped in its
    /// granule.
    pub(super) fn is_outside_window(&self, transfer: &Transfer) -> bool {
        let Transfer { dart, stream, is_overlapped, .. } = *transfer;
        let has_windows =
            self.setting.has_windows && self.setting.board == oche_sim::setup::Board::Dart;
        if !has_windows || is_overlapped || self.views_are_changing(transfer) {
            return false;
        }
        let slot = transfer.iova_page() & 3;
        let may_be_mapped = |slot: u32| {
            let reaches = self.history.reaches(dart, stream, transfer.iova_page() & !3 | slot);
            reaches
                .iter()
                .any(|reach| matches!(reach, Reach::Page(leaf) if leaf.read || leaf.write))
        };
        (0..=slot).all(|slot| !may_be_mapped(slot)) || (slot..4).all(|slot| !may_be_mapped(slot))
    }

    /// Whether a page may be mapped there, with whatever rights, and is not refused.
    fn is_mapped(&self, transfer: &Transfer) -> bool {
        let possible = self.history.possible_roots(transfer.dart, transfer.stream);
        if possible.iter().flatten().any(|roots| self.is_refused(roots, transfer.iova_page())) {
            return false;
        }
        let reaches = self.history.reaches(transfer.dart, transfer.stream, transfer.iova_page());
        reaches.iter().any(|reach| matches!(reach, Reach::Page(leaf) if leaf.read || leaf.write))
    }

    /// Whether any slot of the granule could be either of two things.
    pub(super) fn views_are_changing(&self, transfer: &Transfer) -> bool {
        let Transfer { dart, stream, .. } = *transfer;
        (0..4).any(|slot| {
            self.history.reaches(dart, stream, transfer.iova_page() & !3 | slot).len() > 1
        })
    }

    /// Red zones hold one pattern of eight bytes, everywhere; the first one read says which.
    pub(super) fn check_red_pattern(
        &mut self,
        read: &ExpectedRead,
        offset: usize,
        bytes: &[u8],
    ) -> Checked {
        if self.red_pattern.is_none() {
            if bytes.len() < 8 {
                return Ok(());
            }
            let mut pattern = [0; 8];
            (0..8).for_each(|index| pattern[(offset + index) % 8] = bytes[index]);
            self.red_pattern = Some(pattern);
        }
        let pattern = self.red_pattern.unwrap_or_default();
        for (index, byte) in bytes.iter().enumerate() {
            if *byte != pattern[(offset + index) % 8] {
                return Err(format!(
                    "{read} sees {bytes:02x?} in a red zone, whose pattern is {pattern:02x?}"
                ));
            }
        }
        Ok(())
    }
}
