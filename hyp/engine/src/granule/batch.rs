//! A batch of changes: as many as a trap's budget allows, removals first.

use oche_types::addr::{FRAME_BYTES, PAGE_BYTES};
use oche_types::{Invariant, invariant};

use crate::budget::Budget;
use crate::granule::cost::Affordable;
use crate::granule::{BATCH, Change, FRAMES_PER_CHANGE, GranuleMapper, Requester};
use crate::host::{DomainId, Host};

/// Cost of a batch in addition to that of its changes: publishing the stores, and an invalidation
/// that the hardware confirms.
const APPLY_BYTES: usize = PAGE_BYTES;
/// Cost of looking for empty shadow tables in a domain, which has 128.
const RECLAIM_BYTES: usize = 1024;

impl GranuleMapper {
    /// Makes room for `changes` of `domain`, of which there are at most [`BATCH`], of different
    /// granules. Returns which of them [`Self::apply`] can apply: as many as `budget` allows, and
    /// at least one if nothing is charged to it yet.
    pub(crate) fn afford(
        &mut self,
        host: &mut impl Host,
        domain: DomainId,
        changes: &[Change],
        budget: &mut Budget,
    ) -> Affordable {
        invariant!(changes.len() <= BATCH, "a batch has a bounded number of changes");
        let least = usize::from(budget.is_whole());
        self.release_quarantined(host, changes.len(), budget);
        self.affordable(domain, changes, least, budget)
    }

    /// Applies those of `changes` of `domain` to the hardware that are `affordable`.
    pub(crate) fn apply(
        &mut self,
        host: &mut impl Host,
        requester: Requester,
        domain: DomainId,
        changes: &[Change],
        affordable: Affordable,
        budget: &mut Budget,
    ) {
        let Affordable { count, reserve, .. } = affordable;
        let changes = changes.get(..count).must("the affordable changes are part of the batch");
        if changes.is_empty() {
            return;
        }
        budget.charge(APPLY_BYTES);
        // Whole granules that are mapped had nothing mapped; those that are unmapped want nothing.
        let removes = self.mapped_whole.len() != count;
        let adds = self.unmapped_whole.len() != count;
        if removes {
            self.remove(host, requester, domain, changes);
        }
        self.reclaim(host, changes.len(), budget);
        if adds {
            self.add(host, requester, domain, changes);
        }
        if !self.to_migrate.is_empty() {
            let mut to_migrate = core::mem::take(&mut self.to_migrate);
            self.migrate(host, requester, domain);
            // As after a split in `remove`.
            self.remove(host, requester, domain, &to_migrate);
            self.add(host, requester, domain, &to_migrate);
            to_migrate.clear();
            self.to_migrate = to_migrate;
        }
        self.refund(reserve, budget);
    }

    /// Frees the quarantined frames that `changes` changes can need, if the hardware has confirmed
    /// that no device reaches them: a refused mapping is not tried again. Each frame is marked and
    /// charged to `budget`. The frames for one change are freed in any case, so that at least one
    /// change can be made.
    fn release_quarantined(&mut self, host: &mut impl Host, changes: usize, budget: &mut Budget) {
        let wanted = (FRAMES_PER_CHANGE * changes).saturating_sub(self.pool.free_frames());
        let most = wanted.min(budget.affords(FRAME_BYTES)).max(FRAMES_PER_CHANGE);
        let count = self.pool.release_quarantined(host, most);
        budget.charge(count * FRAME_BYTES);
    }

    /// Returns empty shadow tables to the pool while it could run short in a batch of `changes`
    /// granules.
    fn reclaim(&mut self, host: &mut impl Host, changes: usize, budget: &mut Budget) {
        for index in 0..self.domains.len() {
            if self.pool.free_frames() >= FRAMES_PER_CHANGE * changes {
                return;
            }
            let domain = DomainId(index as u16);
            let Some(placed) = self.domain_mut(domain) else { continue };
            budget.charge(RECLAIM_BYTES);
            if placed.shadow.unlink_empty(host) {
                self.invalidate(host, domain);
                let placed =
                    self.domains.get_mut(index).and_then(Option::as_mut).must("the domain exists");
                budget.charge(FRAME_BYTES * placed.shadow.give_unlinked(host, &mut self.pool));
            }
        }
    }
}
