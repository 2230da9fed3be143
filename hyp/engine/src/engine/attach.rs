//! Attaching streams to domains: a stream is attached to the domain of its tables once these have
//! been applied. A domain ends with its last stream.

use oche_types::Invariant;
use oche_types::addr::{Gfn, IovaPage};
use oche_types::dart::registers::{TTBRS, Ttbr};
use oche_types::dart::stream::{DartId, Members, StreamId, StreamSet};
use oche_types::event::{Event, Place, Refusal};

use crate::engine::stream_state::StreamState;
use crate::engine::work::report_rejected;
use crate::engine::{Domain, Engine, Pending};
use crate::granule::Requester;
use crate::host::{DomainId, Host};

impl Engine {
    pub(super) fn roots(&self, dart: DartId, stream: StreamId) -> Option<[Ttbr; TTBRS]> {
        self.darts.get(dart.index()).must("the DART is the guest's").registers.roots(stream)
    }

    pub(super) fn stream_mut(&mut self, dart: DartId, stream: StreamId) -> &mut StreamState {
        let dart = self.darts.get_mut(dart.index()).must("the DART is the guest's");
        dart.streams.get_mut(stream.index()).must("a DART has 16 streams")
    }

    pub(super) fn domain_mut(&mut self, domain: DomainId) -> &mut Domain {
        self.domains
            .get_mut(usize::from(domain.0))
            .and_then(Option::as_mut)
            .must("the domain exists")
    }

    /// Attaches each of `streams` to the domain of the tables in its registers, and schedules a
    /// comparison of the domain.
    pub(super) fn attach(&mut self, host: &mut impl Host, dart: DartId, streams: StreamSet) {
        for stream in streams.iter() {
            let Some(roots) = self.roots(dart, stream) else {
                self.block(host, dart, stream);
                continue;
            };
            let state = *self.stream_mut(dart, stream);
            // Mostly a stream stays attached to its domain.
            let is_kept = |domain: &DomainId| self.is_domain_of(*domain, &roots);
            if let Some(domain) = state.now().filter(is_kept) {
                self.ask(dart, domain).requester = Requester { dart, stream };
                if state.next().is_some() {
                    self.cancel_attach(dart, stream);
                }
            } else {
                self.attach_to_other(host, Requester { dart, stream }, roots);
            }
        }
    }

    /// Schedules the attachment of a stream to the domain of the tables in `roots`, which is not
    /// the one that it is attached to.
    #[cold]
    #[inline(never)]
    fn attach_to_other(
        &mut self,
        host: &mut impl Host,
        requester: Requester,
        roots: [Ttbr; TTBRS],
    ) {
        let Requester { dart, stream } = requester;
        let domain = self.find_domain(&roots);
        let Some(domain) = domain.or_else(|| self.create_domain(host, requester, roots)) else {
            self.block(host, dart, stream);
            return;
        };
        self.ask(dart, domain).requester = requester;
        if self.stream_mut(dart, stream).next() != Some(domain) {
            self.cancel_attach(dart, stream);
            self.stream_mut(dart, stream).wait(domain);
            self.domain_mut(domain).waiting.insert(dart, stream);
        }
    }

    /// Whether `domain` has the tables in `roots` and does not end.
    fn is_domain_of(&self, domain: DomainId, roots: &[Ttbr; TTBRS]) -> bool {
        let domain = self.domains.get(usize::from(domain.0)).and_then(Option::as_ref);
        domain.is_some_and(|domain| domain.has_tables(roots))
    }

    /// The domain of the tables in `roots`, if there is one: there is at most one that does not
    /// end.
    fn find_domain(&self, roots: &[Ttbr; TTBRS]) -> Option<DomainId> {
        let is_it = |domain: &Option<Domain>| {
            domain.as_ref().is_some_and(|domain| domain.has_tables(roots))
        };
        self.domains.iter().position(is_it).map(|index| DomainId(index as u16))
    }

    /// Creates the domain of the tables in `roots`. If that is not possible, refuses all that they
    /// map and returns `None`.
    fn create_domain(
        &mut self,
        host: &mut impl Host,
        requester: Requester,
        roots: [Ttbr; TTBRS],
    ) -> Option<DomainId> {
        let free =
            self.domains.iter().position(Option::is_none).map(|index| DomainId(index as u16));
        let created = match free {
            Some(domain) if self.mapper.create_domain(host, domain) => Ok(domain),
            Some(_) => Err(Refusal::PoolExhausted),
            None => Err(Refusal::TooManyDomains),
        };
        let domain = match created {
            Ok(domain) => domain,
            Err(reason) => {
                let page =
                    Gfn(roots.iter().find(|root| root.valid()).map_or(0, |root| root.page()));
                let at =
                    Place { dart: requester.dart, stream: requester.stream, iova: IovaPage(0) };
                host.event(Event::Refused { at, page, reason });
                return None;
            }
        };
        let entry = self
            .domains
            .get_mut(usize::from(domain.0))
            .must("a domain's number is below the maximum");
        let mut batch = self.batches.pop().must("each domain has a batch");
        batch.clear();
        let new = Domain {
            roots,
            requester,
            waiting: Members::default(),
            pending: Pending::Compare,
            asked_by: 0,
            batch,
            is_ending: false,
        };
        let batch = &mut entry.insert(new).batch;
        self.tracker.create_domain(host, &mut self.mapper.mover, domain, roots, batch);
        report_rejected(host, requester, batch);
        Some(domain)
    }

    /// Makes every access of `stream` fault from now on.
    #[inline(never)]
    pub(super) fn block(&mut self, host: &mut impl Host, dart: DartId, stream: StreamId) {
        self.cancel_attach(dart, stream);
        let Some(domain) = self.stream_mut(dart, stream).block() else { return };
        host.block(dart, stream);
        host.event(Event::Attach { dart, stream, root: None });
        self.detach(dart, stream, domain);
    }

    fn cancel_attach(&mut self, dart: DartId, stream: StreamId) {
        let Some(domain) = self.stream_mut(dart, stream).cancel() else { return };
        self.domain_mut(domain).waiting.remove(dart, stream);
        self.reassign_requester(dart, stream, domain);
        self.end_if_unused(dart, domain);
    }

    /// Removes `stream` from `domain`, which it no longer uses, and ends the domain with its last
    /// stream.
    fn detach(&mut self, dart: DartId, stream: StreamId, domain: DomainId) {
        self.mapper.placed_mut(domain).members.remove(dart, stream);
        self.reassign_requester(dart, stream, domain);
        self.end_if_unused(dart, domain);
    }

    /// Attributes further work on `domain`, which `stream` has left, to another of its streams, if
    /// there is one.
    fn reassign_requester(&mut self, dart: DartId, stream: StreamId, domain: DomainId) {
        let member = Requester::first(&self.mapper.placed(domain).members);
        let entry = self.domain_mut(domain);
        if let Some(other) = member.or_else(|| Requester::first(&entry.waiting))
            && entry.requester == (Requester { dart, stream })
        {
            entry.requester = other;
        }
    }

    /// Ends `domain`, as work of `dart`, if that has removed its last stream.
    fn end_if_unused(&mut self, dart: DartId, domain: DomainId) {
        let is_used = !self.mapper.placed(domain).members.is_empty();
        let entry = self.domain_mut(domain);
        if !is_used && entry.waiting.is_empty() && !entry.is_ending {
            entry.is_ending = true;
            self.ask(dart, domain);
            self.tracker.end_domain(domain);
        }
    }

    /// Attaches the streams that wait for the tables of `domain` to be applied.
    #[cold]
    #[inline(never)]
    pub(super) fn attach_waiting(&mut self, host: &mut impl Host, domain: DomainId) {
        let entry = self.domain_mut(domain);
        let waiting = core::mem::take(&mut entry.waiting);
        let root = entry.roots.iter().find(|root| root.valid()).map(|root| Gfn(root.page()));
        let is_watched_anew = self.is_watching();
        for (dart, streams) in waiting.iter() {
            for stream in streams.iter() {
                let placed = self.mapper.placed_mut(domain);
                placed.members.insert(dart, stream);
                let attached = host.attach(dart, stream, domain, placed.shadow.root());
                host.event(Event::Attach { dart, stream, root });
                if attached.is_err() {
                    // The stream is blocked, so its device faults until the guest attaches it
                    // again; the event gives the reason.
                    host.event(Event::InvalidateTimedOut { dart });
                }
                if let Some(old) = self.stream_mut(dart, stream).attach(domain) {
                    self.detach(dart, stream, old);
                }
            }
        }
        if is_watched_anew {
            self.mapper.watch_domain(host, domain);
        }
    }
}
