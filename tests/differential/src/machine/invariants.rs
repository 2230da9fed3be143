//! Concurrent programs: anything may be under way, and invariants hold of each access of a device.

use super::transfer::{ExpectedRead, Transfer};
use super::{Checked, Machine};
use crate::history::Reach;
use crate::reference::Leaf;
use oche_engine::Isolation;
use oche_sim::access::DeviceResult;
use oche_sim::setup::Board;
use oche_types::addr::{Gfn, SLOTS};

/// What may become of an access, by all that tables and registers held since the last flush.
struct Possible {
    reaches: Vec<Reach>,
    /// The pages that it may reach.
    pages: Vec<Gfn>,
    /// Whether it may fault.
    may_fault: bool,
    /// Whether some page of its granule grants the access.
    is_granted: bool,
    /// Whether a refusal of a page or table there was reported.
    is_refused: bool,
    /// The page that it must reach, where there is but one way.
    certain: Option<Gfn>,
}

impl<const C: bool> Machine<C> {
    /// Checks what came of a device's access.
    pub(super) fn judge_invariants(
        &mut self,
        transfer: &Transfer,
        result: DeviceResult,
    ) -> Checked {
        let possible = self.possible(transfer);
        match result {
            DeviceResult::Fault => {
                no_fault_where_all_states_permit(transfer, &possible)?;
                self.counts.faults += 1;
                self.expect_fault(transfer);
                Ok(())
            }
            DeviceResult::Accepted { id, at, owner } => {
                let found = owner.or(self.host.deserted_by(at));
                isolation(transfer, &possible, found)?;
                self.exact_permission(transfer, &possible)?;
                self.window(transfer)?;
                self.one_copy_is_where_cpus_find_it(transfer, &possible, owner)?;
                match possible.certain {
                    Some(page) => self.note_certain(transfer, id, page),
                    None => self.note_uncertain(transfer, id, &possible.pages),
                }
                Ok(())
            }
        }
    }

    fn possible(&self, transfer: &Transfer) -> Possible {
        let Transfer { dart, stream, is_overlapped, .. } = *transfer;
        let iova_page = transfer.iova_page();
        let reaches = self.history.reaches(dart, stream, iova_page);
        let possible = self.history.possible_roots(dart, stream);
        let is_refused = possible.iter().flatten().any(|roots| {
            self.refused_tables.contains(roots, iova_page)
                || reaches.iter().any(|reach| {
                    matches!(reach, Reach::Page(leaf)
                        if self.refused.contains(roots, iova_page, leaf.page))
                })
        });
        let has_right = |leaf: &Leaf| if transfer.is_write() { leaf.write } else { leaf.read };
        let lacks_right = |reach: &Reach| !matches!(reach, Reach::Page(leaf) if has_right(leaf));
        // While a flush puts one page in another's place there may be neither.
        let is_replaced = is_overlapped && reaches.len() > 1;
        let may_fault = is_refused || is_replaced || reaches.iter().any(lacks_right);
        let is_granted = self.is_granted(transfer);
        let pages = reaches.iter().filter_map(|reach| match reach {
            Reach::Page(leaf) if has_right(leaf) => Some(leaf.page),
            Reach::Page(leaf) if is_granted && self.shares_rights(transfer, leaf) => {
                Some(leaf.page)
            }
            _ => None,
        });
        let pages: Vec<Gfn> = pages.collect();
        let certain = pages.first().copied().filter(|_| reaches.len() == 1 && !may_fault);
        let is_refused = self.is_any_refused(dart, stream, iova_page);
        Possible { reaches, pages, may_fault, is_granted, is_refused, certain }
    }

    /// Whether any page of the granule grants the access in any state.
    fn is_granted(&self, transfer: &Transfer) -> bool {
        let granule = transfer.iova_page() & !3;
        let grants = |leaf: &Leaf| {
            if transfer.is_write() {
                leaf.write
            } else {
                leaf.read || leaf.write && self.setting.board == Board::Smmu
            }
        };
        (granule..granule + SLOTS as u32).any(|iova_page| {
            let reaches = self.history.reaches(transfer.dart, transfer.stream, iova_page);
            reaches.iter().any(|reach| matches!(reach, Reach::Page(leaf) if grants(leaf)))
        })
    }

    /// Whether a neighbour's right lets an access reach the page of `leaf`, which lacks it.
    fn shares_rights(&self, transfer: &Transfer, leaf: &Leaf) -> bool {
        match self.setting.isolation {
            Isolation::Page => leaf.read || leaf.write,
            Isolation::Strict => {
                !transfer.is_write() && leaf.write && self.setting.board == Board::Smmu
            }
        }
    }

    /// With exact permissions, the granule of a page that is not to be read has no right to read.
    fn exact_permission(&self, transfer: &Transfer, possible: &Possible) -> Checked {
        let is_exact =
            self.setting.isolation == Isolation::Strict && self.setting.board == Board::Dart;
        let is_write_only =
            matches!(possible.reaches[..], [Reach::Page(leaf)] if leaf.write && !leaf.read);
        let is_certain = self.history.possible_roots(transfer.dart, transfer.stream).is_certain();
        let may_be_read = !is_exact
            || !is_write_only
            || !is_certain
            || possible.is_refused
            || transfer.is_overlapped;
        if transfer.is_write() || may_be_read {
            return Ok(());
        }
        Err(format!("{transfer} is accepted, where the tables say {:x?}", possible.reaches))
    }

    /// An access is refused where no page on one side of it is mapped in its granule.
    fn window(&self, transfer: &Transfer) -> Checked {
        let has_windows = self.setting.has_windows && self.setting.board == Board::Dart;
        if !has_windows || transfer.is_overlapped {
            return Ok(());
        }
        let (granule, slot) = (transfer.iova_page() & !3, transfer.iova_page() & 3);
        let may_be_mapped = |slot: u32| {
            let reaches = self.history.reaches(transfer.dart, transfer.stream, granule | slot);
            reaches.len() > 1
                || matches!(reaches[..], [Reach::Page(leaf)] if leaf.read || leaf.write)
        };
        if (0..=slot).any(may_be_mapped) && (slot..4).any(may_be_mapped) {
            return Ok(());
        }
        Err(format!("{transfer} is accepted outside of what is mapped of the granule"))
    }

    /// An access to a page that has one copy, and only one way to go, reaches it where CPUs do.
    fn one_copy_is_where_cpus_find_it(
        &self,
        transfer: &Transfer,
        possible: &Possible,
        owner: Option<Gfn>,
    ) -> Checked {
        match possible.certain {
            Some(page)
                if !transfer.is_overlapped && !self.is_shared(page) && owner != Some(page) =>
            {
                let location = self.host.location(page);
                Err(format!("{transfer} does not reach {page:?}, which CPUs find at {location:?}"))
            }
            _ => Ok(()),
        }
    }

    /// No byte is lost or invented: what is written counts, and what is read is one of the values
    /// that were written.
    fn note_certain(&mut self, transfer: &Transfer, id: u64, page: Gfn) {
        self.counts.exact_accesses += 1;
        self.host.name_pending(id, page);
        match transfer.data {
            Some(data) => self.note_device_write(transfer, page, &data),
            None => {
                let allowed = self.allowed(transfer, page);
                let page = (page, self.describe(page));
                self.reads.insert(id, ExpectedRead { transfer: *transfer, page, allowed });
            }
        }
    }

    /// A write that went to one of `pages`, into a copy, or nowhere.
    fn note_uncertain(&mut self, transfer: &Transfer, id: u64, pages: &[Gfn]) {
        self.counts.ambiguous_accesses += 1;
        let Some(data) = transfer.data else { return };
        self.host.deliver(|pending| pending.id == id);
        self.note_stray(transfer);
        for &page in pages {
            self.sharing.contest(page, transfer.offset(), data.bytes(), self.history.now());
        }
        let possible = self.history.possible_roots(transfer.dart, transfer.stream);
        for roots in possible.iter().flatten() {
            self.strays.insert(roots, transfer.iova_page());
        }
    }
}

/// An access is refused only where some state refuses it, or the engine reported a refusal.
fn no_fault_where_all_states_permit(transfer: &Transfer, possible: &Possible) -> Checked {
    if possible.may_fault {
        return Ok(());
    }
    Err(format!("{transfer} faults, where the tables say {:x?}", possible.reaches))
}

/// An access lands in a page that some state maps with the right, in a copy of it, or in a red zone
/// of a granule that is mapped in part.
fn isolation(transfer: &Transfer, possible: &Possible, found: Option<Gfn>) -> Checked {
    let is_foreign = found.is_some_and(|page| !possible.pages.contains(&page));
    if possible.is_granted && !is_foreign {
        return Ok(());
    }
    Err(format!("{transfer} reaches {found:?}, where the tables say {:x?}", possible.reaches))
}
