//! Beginning and ceasing to track a table.

use oche_types::addr::Gfn;
use oche_types::event::{Event, Refusal};

use crate::host::{DomainId, Host};
use crate::mover::Mover;
use crate::tracker::Tracker;
use crate::tracker::batch::{Batch, RejectedTable};
use crate::tracker::table::{Links, TableId, TableKind};

impl Tracker {
    /// Begins to track the table in `page`, unsync and with an empty copy. If it cannot be tracked,
    /// adds it to the rejected tables of `batch` and returns `None`.
    pub(super) fn track(
        &mut self,
        host: &mut impl Host,
        mover: &mut Mover,
        domain: DomainId,
        kind: TableKind,
        page: Gfn,
        batch: &mut Batch,
    ) -> Option<TableId> {
        let rejected = |reason| RejectedTable { iova: kind.iova(), page, reason };
        if !mover.is_ram(page) {
            batch.rejected.push(rejected(Refusal::TableNotGuestMemory));
            return None;
        }
        // The page may be write-protected for another table in it.
        self.mark_unsync(host, mover, page);
        let Some(id) = self.tables.take() else {
            batch.rejected.push(rejected(Refusal::TooManyTables));
            return None;
        };
        let next = mover.state_mut(page).table.replace(id);
        if let Some(next) = next {
            self.tables.get_mut(next).in_page.previous = Some(id);
        }
        let table = self.tables.get_mut(id);
        table.page = page;
        table.domain = domain;
        table.kind = kind;
        table.idle_flushes = 0;
        table.copy.fill(0);
        table.in_page = Links { previous: None, next };
        self.link_unsync(id);
        host.event(Event::Table { page, is_unsync: true });
        Some(id)
    }

    /// Ceases to track a table, and ends the write protection of its page.
    pub(super) fn untrack(&mut self, host: &mut impl Host, mover: &mut Mover, id: TableId) {
        let page = self.tables.get(id).page;
        self.mark_unsync(host, mover, page);
        self.unlink_unsync(id);
        let Links { previous, next } = self.tables.get(id).in_page;
        match previous {
            Some(previous) => self.tables.get_mut(previous).in_page.next = next,
            None => mover.state_mut(page).table = next,
        }
        if let Some(next) = next {
            self.tables.get_mut(next).in_page.previous = previous;
        }
        self.tables.give(id);
        host.event(Event::Table { page, is_unsync: true });
    }
}
