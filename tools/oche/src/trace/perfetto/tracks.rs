//! The numbers of tracks.

/// Tracks have numbers that tell what they are: the kind above, the stream and a row below.
pub(super) fn track(kind: TrackKind, place: usize, row: u32) -> u64 {
    (kind as u64) << 56 | (place as u64) << 32 | (u64::from(row) + 1)
}

/// What a track shows.
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
}
