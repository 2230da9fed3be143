//! The work of a trap: applies the changes of the domains that a DART's guest driver asked for, up
//! to the trap's budget.
//!
//! Work belongs to the DARTs whose accesses asked for it: by a flush, by attaching a stream, or by
//! detaching the last stream of a domain. A DART is busy while one of its domains has work left,
//! and no other DART's access continues that work. A domain that streams of several DARTs share can
//! be asked for by each of them.

use oche_types::addr::FRAME_BYTES;
use oche_types::dart::stream::DartId;
use oche_types::event::{Event, Place};
use oche_types::{Invariant, invariant};

use crate::budget::Budget;
use crate::engine::{Dart, Domain, Engine, Pending};
use crate::granule::Requester;
use crate::host::{DomainId, Host};
use crate::tracker::Batch;

/// Cost of marking the shadow tables of a domain that ends, in bytes: it has at most so many.
const END_BYTES: usize = 129 * FRAME_BYTES;

impl Engine {
    pub(super) fn dart_mut(&mut self, dart: DartId) -> &mut Dart {
        self.darts.get_mut(dart.index()).must("the DART is the guest's")
    }

    /// Has the tables of `domain` compared from the start, as work of `dart`: the guest may have
    /// changed them since they were compared. Returns the domain.
    #[inline]
    pub(super) fn ask(&mut self, dart: DartId, domain: DomainId) -> &mut Domain {
        self.tracker.restart(domain);
        self.dart_mut(dart).due.insert(domain);
        let entry = self.domain_mut(domain);
        entry.pending = match entry.pending {
            Pending::Apply { applied, .. } => Pending::Apply { applied, is_compared: false },
            _ => Pending::Compare,
        };
        entry.asked_by |= 1 << dart.index();
        entry
    }

    /// Does the work that `dart` asked for, up to the budget of a trap. Returns the number of slots
    /// that were compared.
    #[inline(never)]
    pub(super) fn work(&mut self, host: &mut impl Host, dart: DartId) -> usize {
        let mut budget = Budget::new(self.slice_bytes);
        let mut slots = 0;
        while let Some(domain) = self.dart_mut(dart).due.first() {
            if budget.is_spent() {
                break;
            }
            slots += self.work_on(host, domain, &mut budget);
        }
        slots
    }

    /// Does one round of work on `domain`. Returns the number of slots that were compared.
    fn work_on(&mut self, host: &mut impl Host, domain: DomainId, budget: &mut Budget) -> usize {
        let entry = self.domains.get_mut(usize::from(domain.0)).and_then(Option::as_mut);
        let entry = entry.must("the domain exists");
        invariant!(entry.pending != Pending::Nothing, "a domain that is due has work left");
        let (applied, is_compared) = match entry.pending {
            Pending::Apply { applied, is_compared } => (applied, is_compared),
            Pending::Merge { left } => {
                self.merge(host, domain, left, budget);
                return 0;
            }
            Pending::Nothing | Pending::Compare => {
                entry.batch.clear();
                let (tracker, mapper) = (&mut self.tracker, &mut self.mapper);
                let is_compared = tracker.compare(host, mapper, domain, &mut entry.batch, budget);
                report_rejected(host, entry.requester, &entry.batch);
                (0, is_compared)
            }
        };
        let changes = entry.batch.changes.get(applied..);
        let changes = changes.must("the applied changes are part of the batch");
        let mut count = 0;
        if !changes.is_empty() {
            let affordable = self.mapper.afford(host, domain, changes, budget);
            if affordable.maps_table {
                for leaf in changes.iter().flat_map(|change| change.wanted.into_iter().flatten()) {
                    // A device may write this page from now on, which does not trap.
                    self.tracker.mark_unsync(host, &mut self.mapper.mover, leaf.page);
                }
            }
            count = affordable.count;
            self.mapper.apply(host, entry.requester, domain, changes, affordable, budget);
        }
        if count < changes.len() {
            entry.pending = Pending::Apply { applied: applied + count, is_compared };
            return 4 * count;
        }
        // A rejected table counts too: reporting it is work.
        let slots = 4 * (count + entry.batch.rejected.len());
        if !is_compared {
            entry.pending = Pending::Compare;
        } else if entry.is_ending {
            self.complete(host, domain, budget);
        } else {
            self.merge(host, domain, usize::MAX, budget);
        }
        slots
    }

    /// Merges the flush-merged pages of `domain`, from the last of the first `left` on.
    fn merge(
        &mut self,
        host: &mut impl Host,
        domain: DomainId,
        mut left: usize,
        budget: &mut Budget,
    ) {
        if self.mapper.merge_at_flush(host, domain, &mut left, budget) {
            self.complete(host, domain, budget);
        } else {
            self.domain_mut(domain).pending = Pending::Merge { left };
        }
    }

    /// Ends the work on `domain`, whose shadow tables now agree with the guest's tables.
    #[inline]
    fn complete(&mut self, host: &mut impl Host, domain: DomainId, budget: &mut Budget) {
        let entry = self.domain_mut(domain);
        entry.pending = Pending::Nothing;
        let (is_ending, is_awaited) = (entry.is_ending, !entry.waiting.is_empty());
        let mut asked_by = core::mem::take(&mut entry.asked_by);
        while let Some(dart) = DartId::new(asked_by.trailing_zeros() as usize) {
            asked_by &= asked_by - 1;
            self.dart_mut(dart).due.remove(domain);
        }
        if is_ending {
            budget.charge(END_BYTES);
            self.destroy(host, domain);
        } else if is_awaited {
            self.attach_waiting(host, domain);
        }
    }

    /// Destroys `domain`, of whose tables nothing is mapped any more.
    #[cold]
    #[inline(never)]
    fn destroy(&mut self, host: &mut impl Host, domain: DomainId) {
        self.tracker.destroy_domain(host, &mut self.mapper.mover, domain);
        self.mapper.destroy_domain(host, domain);
        let ended = self.domains.get_mut(usize::from(domain.0)).and_then(Option::take);
        self.batches.push(ended.must("the domain exists").batch);
    }
}

/// Reports the tables of `batch` that cannot be tracked as refusals.
pub(super) fn report_rejected(host: &mut impl Host, requester: Requester, batch: &Batch) {
    for table in &batch.rejected {
        let at = Place { dart: requester.dart, stream: requester.stream, iova: table.iova };
        host.event(Event::Refused { at, page: table.page, reason: table.reason });
    }
}
