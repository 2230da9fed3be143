//! The work of a trap: domains whose tables may have changed, one after the other, up to a bound.

use oche_types::Invariant;
use oche_types::addr::FRAME_BYTES;
use oche_types::event::{Event, Place};

use crate::budget::Budget;
use crate::engine::{Domain, Engine};
use crate::granule::Requester;
use crate::host::{DomainId, Host};
use crate::tracker::Batch;

/// What it costs to mark the tables of a domain that ends, as many as it can have.
const END_BYTES: usize = 129 * FRAME_BYTES;

impl Engine {
    /// Does what is due, up to a bound. Returns how many slots were looked at; `is_busy`
    /// says whether something is left.
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

    /// The domain to go on with: the one whose changes are in hand, or the first of which something
    /// is due. A domain that becomes ready can end another, wherever that is in the list.
    fn due(&self) -> Option<DomainId> {
        let first =
            || self.domains.iter().position(|domain| domain.as_ref().is_some_and(Domain::is_due));
        self.current_domain.or_else(|| first().map(|domain| DomainId(domain as u16)))
    }

    /// One round of work on `domain`. Returns how many slots were looked at.
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
            .must("no more changes are acted on than there are");
        let applied = self.mapper.apply(host, requester, domain, rest, budget);
        self.applied += applied;
        if self.applied == self.batch.changes.len() {
            self.current_domain = None;
            if self.is_compared && is_ending {
                self.complete(host, domain, budget);
            } else if self.is_compared {
                self.domain_mut(domain).merges_left = Some(usize::MAX);
            }
            // A refused table counts too: reporting it is work.
            return 4 * (applied + self.batch.rejected.len());
        }
        4 * applied
    }

    /// What was compared of `domain` so far is out of date: its tables are compared anew.
    pub(super) fn restart(&mut self, domain: DomainId) {
        self.tracker.restart(domain);
        if self.current_domain == Some(domain) {
            self.is_compared = false;
        }
        self.domain_mut(domain).merges_left = None;
    }

    /// `domain` agrees with the guest's tables.
    fn complete(&mut self, host: &mut impl Host, domain: DomainId, budget: &mut Budget) {
        let entry = self.domain_mut(domain);
        entry.needs_flush = false;
        entry.merges_left = None;
        if entry.is_ending {
            budget.charge(END_BYTES);
            self.tracker.destroy_domain(host, &mut self.mapper.mover, domain);
            self.mapper.destroy_domain(host, domain);
            *self.domains.get_mut(usize::from(domain.0)).must("the domain is open") = None;
        } else {
            self.tracker.count_flush(domain);
            self.attach_waiting(host, domain);
        }
    }
}

/// Records the tables of `batch` that cannot be tracked as refusals.
pub(super) fn report_rejected(host: &mut impl Host, requester: Requester, batch: &Batch) {
    for table in &batch.rejected {
        let at = Place { dart: requester.dart, stream: requester.stream, iova: table.iova };
        host.event(Event::Refused { at, page: table.page, reason: table.reason });
    }
}
