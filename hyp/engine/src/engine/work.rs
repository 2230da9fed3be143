//! The work of a trap: applies the changes of the domains that need it, up to the trap's budget.

use oche_types::Invariant;
use oche_types::addr::FRAME_BYTES;
use oche_types::event::{Event, Place};

use crate::budget::Budget;
use crate::engine::{Domain, Engine};
use crate::granule::Requester;
use crate::host::{DomainId, Host};
use crate::tracker::Batch;

/// Cost of marking the shadow tables of a domain that ends, in bytes: it has at most so many.
const END_BYTES: usize = 129 * FRAME_BYTES;

impl Engine {
    /// Does the work that is due, up to the budget of a trap. Returns the number of slots that were
    /// compared, and sets `is_busy` if some work is left.
    pub(super) fn work(&mut self, host: &mut impl Host) -> usize {
        let mut budget = Budget::new(self.slice_bytes);
        let mut slots = 0;
        while let Some(domain) = self.due() {
            if budget.is_spent() {
                self.is_busy = true;
                return slots;
            }
            slots += self.work_on(host, domain, &mut budget);
        }
        self.is_busy = false;
        slots
    }

    /// The domain to work on: the one with a batch under way, or the first that has work due. A
    /// domain that is completed can end another one anywhere in the list.
    fn due(&self) -> Option<DomainId> {
        let first =
            || self.domains.iter().position(|domain| domain.as_ref().is_some_and(Domain::is_due));
        self.current_domain.or_else(|| first().map(|domain| DomainId(domain as u16)))
    }

    /// Does one round of work on `domain`. Returns the number of slots that were compared.
    fn work_on(&mut self, host: &mut impl Host, domain: DomainId, budget: &mut Budget) -> usize {
        let entry = self.domain_mut(domain);
        let (requester, is_ending) = (entry.requester, entry.is_ending);
        if let Some(mut left) = entry.merges_left.filter(|_| !is_ending) {
            let is_done = self.mapper.merge_at_flush(host, domain, &mut left, budget);
            if is_done {
                self.complete(host, domain, budget);
            } else {
                self.domain_mut(domain).merges_left = Some(left);
            }
            return 0;
        }
        if self.current_domain.is_none() {
            self.batch.clear();
            self.is_compared =
                self.tracker.compare(host, &mut self.mapper, domain, &mut self.batch, budget);
            report_rejected(host, requester, &self.batch);
            (self.current_domain, self.applied) = (Some(domain), 0);
        }
        let rest = self
            .batch
            .changes
            .get(self.applied..)
            .must("the applied changes are part of the batch");
        let applied = self.mapper.apply(host, requester, domain, rest, budget);
        self.applied += applied;
        if self.applied == self.batch.changes.len() {
            self.current_domain = None;
            if self.is_compared && is_ending {
                self.complete(host, domain, budget);
            } else if self.is_compared {
                self.domain_mut(domain).merges_left = Some(usize::MAX);
            }
            // A rejected table counts too: reporting it is work.
            return 4 * (applied + self.batch.rejected.len());
        }
        4 * applied
    }

    /// Has the tables of `domain` compared again from the start: the guest may have changed them
    /// since they were compared.
    pub(super) fn restart(&mut self, domain: DomainId) {
        self.tracker.restart(domain);
        if self.current_domain == Some(domain) {
            self.is_compared = false;
        }
        self.domain_mut(domain).merges_left = None;
    }

    /// Ends the work on `domain`, whose shadow tables now agree with the guest's tables.
    fn complete(&mut self, host: &mut impl Host, domain: DomainId, budget: &mut Budget) {
        let entry = self.domain_mut(domain);
        entry.needs_flush = false;
        entry.merges_left = None;
        if entry.is_ending {
            budget.charge(END_BYTES);
            self.tracker.destroy_domain(host, &mut self.mapper.mover, domain);
            self.mapper.destroy_domain(host, domain);
            *self.domains.get_mut(usize::from(domain.0)).must("the domain exists") = None;
        } else {
            self.tracker.count_flush(domain);
            self.attach_waiting(host, domain);
        }
    }
}

/// Reports the tables of `batch` that cannot be tracked as refusals.
pub(super) fn report_rejected(host: &mut impl Host, requester: Requester, batch: &Batch) {
    for table in &batch.rejected {
        let at = Place { dart: requester.dart, stream: requester.stream, iova: table.iova };
        host.event(Event::Refused { at, page: table.page, reason: table.reason });
    }
}
