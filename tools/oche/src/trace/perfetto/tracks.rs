//! The tracks: their numbers, and their descriptors, each of which is written before its first
//! event.

use std::io::{self, Write};

use oche_types::event::Placement;

use super::super::description::plain;
use super::super::lifetime::StreamPlace;
use super::schema::{CounterDescriptor, ProcessDescriptor, TrackDescriptor};
use super::writer::Writer;

/// The number of a track: its kind in the upper bits, the stream and a row in the lower ones.
pub(super) fn track(kind: TrackKind, place: usize, row: u32) -> u64 {
    (kind as u64) << 56 | (place as u64) << 32 | (u64::from(row) + 1)
}

/// The subject of a track.
#[derive(Clone, Copy)]
pub(super) enum TrackKind {
    Dart = 1,
    Stream = 2,
    Row = 3,
    Incidents = 4,
    MappedBytes = 5,
    Placement = 6,
    FlushRate = 7,
    Cpus = 8,
    Cpu = 9,
    GuestCpus = 10,
    GuestCpu = 11,
    GuestTasks = 12,
    GuestTask = 13,
}

impl<W: Write> Writer<'_, W> {
    pub(super) fn dart_track(&mut self, dart: usize) -> io::Result<u64> {
        let uuid = track(TrackKind::Dart, dart, 0);
        if self.tracks.contains(&uuid) {
            return Ok(uuid);
        }
        let known = self.description.darts.iter().find(|entry| entry.dart.index() == dart);
        let name = known.map_or_else(
            || format!("DART {dart}"),
            |entry| {
                format!("DART {dart}: {} at {:#x}", plain(entry.name.as_str()), entry.registers)
            },
        );
        let process =
            ProcessDescriptor { pid: Some(dart as i32 + 1), process_name: Some(name.clone()) };
        self.declare(TrackDescriptor {
            process: Some(process),
            ..TrackDescriptor::named(uuid, &name)
        })?;
        let rate = TrackDescriptor {
            parent_uuid: Some(uuid),
            counter: Some(CounterDescriptor { unit: None, unit_name: Some("flushes/s".into()) }),
            ..TrackDescriptor::named(track(TrackKind::FlushRate, dart, 0), "flushes a second")
        };
        self.declare(rate)?;
        Ok(uuid)
    }

    pub(super) fn stream_track(&mut self, place: StreamPlace) -> io::Result<u64> {
        let uuid = track(TrackKind::Stream, place.index(), 0);
        if self.tracks.contains(&uuid) {
            return Ok(uuid);
        }
        let dart = self.dart_track(place.dart())?;
        let name = format!("stream {}: {}", place.stream(), self.description.label_of(place));
        self.declare(TrackDescriptor {
            parent_uuid: Some(dart),
            ..TrackDescriptor::named(uuid, &name)
        })?;
        let bytes = || CounterDescriptor { unit: Some(CounterDescriptor::BYTES), unit_name: None };
        let counter = |uuid: u64, name: &str| TrackDescriptor {
            parent_uuid: Some(track(TrackKind::Stream, place.index(), 0)),
            counter: Some(bytes()),
            ..TrackDescriptor::named(uuid, name)
        };
        self.declare(counter(track(TrackKind::MappedBytes, place.index(), 0), "mapped"))?;
        for placement in [Placement::Direct, Placement::Migrated, Placement::Bounce] {
            let lane = 1 + placement_index(placement) as u32;
            let name = format!("mapped, {}", placement.name());
            self.declare(counter(track(TrackKind::Placement, place.index(), lane), &name))?;
        }
        Ok(uuid)
    }

    pub(super) fn row_track(&mut self, place: StreamPlace, row: u32) -> io::Result<u64> {
        let parent = self.stream_track(place)?;
        let uuid = track(TrackKind::Row, place.index(), row);
        // One name under one parent: the viewer draws them as one track of many rows.
        self.declare(TrackDescriptor {
            parent_uuid: Some(parent),
            ..TrackDescriptor::named(uuid, "mappings")
        })?;
        Ok(uuid)
    }

    pub(super) fn cpu_track(&mut self, cpu: u8) -> io::Result<u64> {
        let all = track(TrackKind::Cpus, 0, 0);
        let process =
            ProcessDescriptor { pid: Some(1000), process_name: Some("flushes by CPU".into()) };
        self.declare(TrackDescriptor {
            process: Some(process),
            ..TrackDescriptor::named(all, "flushes by CPU")
        })?;
        let uuid = track(TrackKind::Cpu, cpu.into(), 0);
        self.declare(TrackDescriptor {
            parent_uuid: Some(all),
            ..TrackDescriptor::named(uuid, &format!("CPU {cpu}"))
        })?;
        Ok(uuid)
    }
}

pub(super) fn placement_index(placement: Placement) -> usize {
    match placement {
        Placement::Direct => 0,
        Placement::Migrated => 1,
        Placement::Bounce => 2,
    }
}
