//! What the engine reports, compared with what happened.

use super::{Checked, Machine, ReportedHit};
use crate::history::Roots;
use crate::program::Mode;
use crate::reference::decode_root;
use oche_engine::Isolation;
use oche_engine::pool::RED_ZONE;
use oche_sim::access::Data;
use oche_types::addr::{Gfn, PAGE_BYTES};
use oche_types::event::{Event, Place, Placement, Refusal};

impl<const C: bool> Machine<C> {
    /// Checks what the engine reported since it was asked last.
    pub(super) fn take_events(&mut self) -> Checked {
        for event in std::mem::take(&mut self.host.events) {
            match event {
                Event::Map { at, page, placement, .. } => self.note_map(at, page, placement),
                Event::Unmap { at, page } => self.note_unmap(at, page)?,
                Event::Permission { at, page, .. } => self.note_permission(at, page)?,
                Event::Refused { at, page, reason } => self.note_refusal(at, page, reason)?,
                Event::RedZone { at, offset, .. } => self.note_red_zone(at, offset.into())?,
                Event::Data { words } => self.check_reported_bytes(words)?,
                Event::LiveMove { .. } => self.counts.live_moves += 1,
                Event::Fault { dart, stream, iova, code, is_write, is_hidden } => {
                    self.note_fault(dart, stream, iova, code, is_write, is_hidden)?;
                }
                Event::InvalidateTimedOut { .. } => self.is_blind = true,
                _ => {}
            }
        }
        Ok(())
    }

    fn note_map(&mut self, at: Place, page: Gfn, placement: Placement) {
        match placement {
            Placement::Direct => self.counts.direct += 1,
            Placement::Migrated => self.counts.migrated += 1,
            Placement::Bounce => self.counts.bounce_pages += 1,
        }
        *self.live_maps.entry((at.iova.0, page)).or_default() += 1;
        if let [roots] = self.roots_of(at)[..] {
            self.refused.remove(roots, at.iova.0);
            self.refused_tables.remove(roots, at.iova.0);
        }
    }

    fn note_unmap(&mut self, at: Place, page: Gfn) -> Checked {
        let key = (at.iova.0, page);
        let Some(count) = self.live_maps.get_mut(&key) else {
            return Err(format!("{page:?} at {:?} is unmapped and was not mapped", at.iova));
        };
        *count -= 1;
        if *count == 0 {
            self.live_maps.remove(&key);
        }
        Ok(())
    }

    fn note_permission(&mut self, at: Place, page: Gfn) -> Checked {
        self.counts.permissions += 1;
        if self.live_maps.contains_key(&(at.iova.0, page)) {
            return Ok(());
        }
        Err(format!("{page:?} at {:?} is not mapped and gets a permission", at.iova))
    }

    /// The sets of tables that an event may be about.
    fn roots_of(&self, at: Place) -> Vec<Roots> {
        let (dart, stream) = (at.dart.index(), at.stream.index());
        match self.setting.mode {
            Mode::Quiescent => self.history.roots(dart, stream).into_iter().collect(),
            Mode::Concurrent => {
                self.history.possible_roots(dart, stream).iter().flatten().collect()
            }
        }
    }

    /// C6: what is refused is refused for a good reason.
    fn note_refusal(&mut self, at: Place, page: Gfn, reason: Refusal) -> Checked {
        self.counts.refusals += 1;
        if !self.is_plausible(page, reason) {
            return Err(format!(
                "{page:?} at {:?} is refused for no good reason: {reason:?}",
                at.iova
            ));
        }
        self.mark_refused(at, page, reason);
        Ok(())
    }

    /// Notes what the engine has refused since events were taken, which stay to be taken: what an
    /// access in the middle of a flush meets.
    pub(super) fn note_refusals_so_far(&mut self) {
        let refused = self.host.events.iter().filter_map(|event| match *event {
            Event::Refused { at, page, reason } => Some((at, page, reason)),
            _ => None,
        });
        for (at, page, reason) in refused.collect::<Vec<_>>() {
            self.mark_refused(at, page, reason);
        }
    }

    fn mark_refused(&mut self, at: Place, page: Gfn, reason: Refusal) {
        for roots in self.roots_of(at) {
            let is_root = roots.iter().any(|&ttbr| decode_root(ttbr) == Some(page));
            match reason {
                Refusal::TooManyDomains => self.refused_tables.insert_all(roots),
                Refusal::PoolExhausted if is_root => self.refused_tables.insert_all(roots),
                Refusal::TableNotGuestMemory | Refusal::TooManyTables => {
                    self.refused_tables.insert(roots, at.iova.0, is_root);
                    // Or the engine has no table of its own for this one page.
                    self.refused.insert(roots, at.iova.0, page);
                }
                _ => self.refused.insert(roots, at.iova.0, page),
            }
        }
    }

    fn is_plausible(&self, page: Gfn, reason: Refusal) -> bool {
        let is_ram = self.history.memory.contains(page);
        match reason {
            Refusal::PoolExhausted => self.setting.frames < 1000,
            Refusal::NotGuestMemory | Refusal::TableNotGuestMemory => !is_ram,
            Refusal::DeviceNotDirect => false,
            Refusal::OutOfStage2Tables => self.setting.scarce_tables != 0,
            // Or one flush maps it more often than is allowed: those leaves are not flushed yet.
            Refusal::TooManyAliases => {
                self.views.mappings(page) >= 4
                    || self.views.is_unsettled(page)
                    || self.guest.is_hostile
            }
            Refusal::TooManyDomains => true,
            // A fetch or a walk; or the disk's use of a page with copies, and no memory to keep
            // them equal.
            Refusal::NotTrappable => {
                self.given_up.contains(&page)
                    || self.setting.frames < 1000 && !self.fetched.is_empty()
            }
            Refusal::MixedPermission => self.setting.isolation == Isolation::Strict,
            Refusal::SubPageWindow | Refusal::TooManyTables => self.guest.is_hostile,
        }
    }

    /// C5: what is reported of a red zone is what a device did. The bytes come next.
    fn note_red_zone(&mut self, at: Place, offset: usize) -> Checked {
        self.counts.red_zone_reports += 1;
        let iova_page = at.iova.0;
        let own = self.roots_of(at);
        self.reported = Some(ReportedHit { roots: own.first().copied(), iova_page, first: offset });
        let count = self.red_zones.len();
        self.red_zones.retain(|key| !(key.1 == iova_page && own.contains(&key.0)));
        if self.red_zones.len() == count {
            // The stream uses other tables by now.
            self.red_zones.retain(|key| key.1 != iova_page);
        }
        // In a quiescent program the bytes decide.
        if self.setting.mode == Mode::Quiescent
            || self.stray_writes.contains_key(&iova_page)
            || self.guest.is_hostile
        {
            return Ok(());
        }
        Err(format!("a write into the red zone at {:?} that no device made", at.iova))
    }

    /// The bytes of a red zone that was hit: each is the zone's own or one that a device wrote
    /// there, and the first is of the latter kind.
    fn check_reported_bytes(&mut self, words: [u64; 2]) -> Checked {
        let Some(hit) = self.reported.take() else { return Ok(()) };
        let (iova_page, first) = (hit.iova_page, hit.first);
        if self.setting.mode == Mode::Quiescent && !self.guest.is_hostile {
            return self.pair_report(&hit, words);
        }
        let bytes = words.into_iter().flat_map(u64::to_le_bytes);
        for (at, byte) in (first..PAGE_BYTES).zip(bytes) {
            let is_zone = at != first && byte == red_byte(at);
            if !is_zone && !self.guest.is_hostile && !self.is_stray(iova_page, at, byte) {
                return Err(format!(
                    "byte {byte:#04x} is reported at {at:#x} of the red zone at IOVA page \
                     {iova_page:#x}, hit first at {first:#x}; devices wrote {:x?}",
                    self.stray_writes.get(&iova_page)
                ));
            }
        }
        self.counts.red_zone_bytes += 16;
        Ok(())
    }

    /// C5, in a quiescent program: what was written into a zone since it was made is reported once.
    /// After that the zone holds its pattern.
    fn pair_report(&mut self, hit: &ReportedHit, words: [u64; 2]) -> Checked {
        let explains = |writes: &Vec<(usize, Data)>| {
            let mut bytes =
                (hit.first..PAGE_BYTES).zip(words.into_iter().flat_map(u64::to_le_bytes));
            bytes.all(|(at, byte)| {
                at != hit.first && byte == red_byte(at) || has_written(writes, at, byte)
            })
        };
        let own = hit.roots.map(|roots| (roots, hit.iova_page));
        let own = own.filter(|zone| self.zone_writes.get(zone).is_some_and(explains));
        // Or the stream uses other tables by now.
        let mut others =
            self.zone_writes.iter().filter(|((_, iova_page), _)| *iova_page == hit.iova_page);
        let zone = own.or_else(|| others.find(|(_, all)| explains(all)).map(|(zone, _)| *zone));
        let Some(zone) = zone else {
            return Err(format!(
                "a write into the red zone at IOVA page {:#x} is reported with {words:x?} at \
                 {:#x}, which no device wrote since the zone was made or reported last",
                hit.iova_page, hit.first
            ));
        };
        self.zone_writes.remove(&zone);
        self.counts.red_zone_bytes += 16;
        Ok(())
    }

    /// Whether a device wrote `byte` where nothing is mapped, or where it lacks the right, at
    /// `offset` of page `iova_page`.
    fn is_stray(&self, iova_page: u32, offset: usize, byte: u8) -> bool {
        self.stray_writes.get(&iova_page).is_some_and(|writes| has_written(writes, offset, byte))
    }
}

/// Whether one of `writes` put `byte` at `offset`.
pub(super) fn has_written(writes: &[(usize, Data)], offset: usize, byte: u8) -> bool {
    writes.iter().any(|(start, data)| {
        let index = offset.checked_sub(*start);
        index.and_then(|index| data.bytes().get(index)) == Some(&byte)
    })
}

/// The byte at `offset` of a red zone that no device wrote into.
pub(super) fn red_byte(offset: usize) -> u8 {
    RED_ZONE.to_le_bytes()[offset % 8]
}
