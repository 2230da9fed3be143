//! A stream's figures.

use oche_types::addr::PAGE_BYTES;
use oche_types::dart::entry::Permission;
use oche_types::dart::stream::STREAMS;
use oche_types::event::Placement;

use super::super::description::TraceDescription;
use super::super::lifetime::{Mapping, StreamPlace};
use super::bins::{Bins, Level, SPACE_BINS, Space, Steps, Sum};
use super::data::{Device, LifetimeRow, SpaceRow};

/// What was refused to a device, or came from it where nothing was mapped.
#[derive(Clone, Copy, Debug)]
pub(super) enum Incident {
    Fault,
    RedZone,
    Refused,
}

/// One stream's figures on the way.
#[derive(Default)]
pub(super) struct OfStream {
    maps: u64,
    pub(super) unmaps: u64,
    /// By kind.
    incidents: [Sum; 3],
    placements: [u64; 3],
    pub(super) mapped: Level,
    made: Sum,
    space: Space,
    /// By direction: pages by the number of bits of the nanoseconds mapped, and the longest.
    lifetimes: [(Steps<65>, u64); 4],
}

impl OfStream {
    pub(super) fn fold(&mut self) {
        self.mapped.fold();
        self.made.fold();
        self.space.fold();
        self.incidents.iter_mut().for_each(Sum::fold);
        self.lifetimes.iter_mut().for_each(|(steps, _)| steps.fold());
    }

    /// `mapping` was made in bin number `bin`.
    pub(super) fn map(&mut self, mapping: &Mapping, bin: usize) {
        self.maps += 1;
        self.made.add(bin, 1);
        self.mapped.change(bin, PAGE_BYTES as i64);
        let placement = match mapping.placement {
            Placement::Direct => 0,
            Placement::Migrated => 1,
            Placement::Bounce => 2,
        };
        self.placements[placement] += 1;
    }

    /// `mapping`, made at `since`, ended at `now`, both in nanoseconds.
    pub(super) fn unmap(&mut self, mapping: &Mapping, bins: &Bins, since: u64, now: u64) {
        let bin = bins.of(now);
        self.unmaps += 1;
        self.mapped.change(bin, -(PAGE_BYTES as i64));
        self.stay(mapping, bins, since, now);
        let span = now.saturating_sub(since);
        let (steps, longest) = &mut self.lifetimes[direction_index(mapping.permission)];
        steps.add(bin, (64 - span.leading_zeros()) as usize);
        *longest = (*longest).max(span);
    }

    /// `mapping` was there from `since` to `until`, in nanoseconds.
    pub(super) fn stay(&mut self, mapping: &Mapping, bins: &Bins, since: u64, until: u64) {
        self.space.add(mapping.iova, &bins.wider(SPACE_BINS), since, until);
    }

    pub(super) fn incident(&mut self, kind: Incident, bin: usize) {
        self.incidents[kind as usize].add(bin, 1);
    }

    /// The data of `place`, in `used` bins.
    pub(super) fn finish(
        self,
        place: StreamPlace,
        description: &TraceDescription,
        bins: &Bins,
        used: usize,
    ) -> Device {
        let (peak_bytes, end_bytes) = (self.mapped.peak(), self.mapped.now());
        let [faults, red_zones, refused] = self.incidents.map(|sum| sum.finish(used));
        let incidents = (0..used)
            .map(|bin| [bin as u64, faults[bin], red_zones[bin], refused[bin]])
            .filter(|[_, counts @ ..]| counts.iter().any(|count| *count > 0));
        let rows = ["--", "r-", "-w", "rw"].into_iter().zip(self.lifetimes);
        let lifetimes =
            rows.filter_map(|(may, (steps, longest_ns))| lifetime(may, &steps, longest_ns));
        let space = self.space.finish(&bins.wider(SPACE_BINS), used.div_ceil(SPACE_BINS));
        Device {
            name: description.label_of(place),
            dart: place.dart(),
            stream: place.index() % STREAMS,
            maps: self.maps,
            unmaps: self.unmaps,
            peak_bytes,
            end_bytes,
            incidents: incidents.collect(),
            faults: faults.iter().sum(),
            red_zones: red_zones.iter().sum(),
            refused: refused.iter().sum(),
            placements: self.placements,
            mapped: self.mapped.finish(used),
            made: self.made.finish(used),
            lifetimes: lifetimes.collect(),
            space: space
                .into_iter()
                .map(|row| SpaceRow {
                    start: format!("{:#x}", row.start),
                    end: format!("{:#x}", row.end),
                    cells: row.cells,
                })
                .collect(),
        }
    }
}

fn lifetime(may: &'static str, steps: &Steps<65>, longest_ns: u64) -> Option<LifetimeRow> {
    let counts: Vec<[u64; 3]> = steps
        .iter()
        .flat_map(|(step, counts)| {
            let counted = counts.iter().enumerate().filter(|(_, count)| **count > 0);
            counted.map(move |(bits, count)| [step as u64, bits as u64, u64::from(*count)])
        })
        .collect();
    if counts.is_empty() { None } else { Some(LifetimeRow { may, counts, longest_ns }) }
}

fn direction_index(permission: Permission) -> usize {
    usize::from(permission.read) + 2 * usize::from(permission.write)
}
