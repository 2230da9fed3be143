//! The trace file's bytes: a header, then chunks. `docs/trace.md` is the description; this is the
//! code.

use alloc::string::String;
use alloc::vec::Vec;

use crate::directory::{Counter, DESCRIPTION_BYTES};
use crate::words::Text;

/// The file's first eight bytes.
pub const FILE_MAGIC: [u8; 8] = *b"OCHEFILE";
/// Version of the file's shape. Chunk kinds can be added without a new one.
pub const FILE_VERSION: u32 = 1;
/// Bytes of the file's header.
pub const FILE_HEADER_BYTES: usize = 32;
/// The first eight bytes of each chunk.
pub const CHUNK_MAGIC: [u8; 8] = *b"OCHECHNK";
/// Bytes of a chunk's header.
pub const CHUNK_HEADER_BYTES: usize = 64;
/// Most payload bytes of a chunk: 16 MiB. A header with more is damaged.
pub const MAX_PAYLOAD_BYTES: u64 = 16 << 20;
/// Bytes of a sample's label.
const LABEL_BYTES: usize = 64;

const FOUND_FIXED_BYTES: usize = 16;
const END_FIXED_BYTES: usize = 16;
const END_CPU_BYTES: usize = 16;
const SAMPLE_FIXED_BYTES: usize = 16 + LABEL_BYTES + 8;
const COUNTER_BYTES: usize = 40;
const MACHINE_SCOPE: u32 = u32::MAX;

/// What a chunk holds. Readers skip those that they do not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ChunkKind {
    /// The trace directory up to its counters. Begins a session: what follows is from one boot of
    /// Oche.
    Directory = 1,
    /// Records of one CPU, without a gap between them.
    Records = 2,
    /// Counters, wall clock and a label.
    Sample = 3,
    /// Totals. Ends a session that was recorded to its end.
    End = 4,
    /// What the guest calls its code and its devices.
    Names = 5,
}

impl ChunkKind {
    /// The kind with `number`, or `None` where this version knows none.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Directory, Self::Records, Self::Sample, Self::End, Self::Names]
            .into_iter()
            .find(|kind| *kind as u32 == number)
    }
}

/// A chunk's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkHeader {
    /// A number of [`ChunkKind`].
    pub kind: u32,
    /// The CPU whose the records are; 0 in other chunks.
    pub cpu: u32,
    /// Bytes that follow the header: a multiple of 8.
    pub payload_bytes: u64,
    /// See [`checksum`].
    pub checksum: u64,
    /// Number of the first record, counted from 0 per CPU.
    pub first: u64,
    /// Records of this CPU that were lost in the ring between the chunk before and this one.
    pub lost_before: u64,
    /// Time of the first record, in ticks.
    pub first_time: u64,
}

impl ChunkHeader {
    /// The header that `bytes` are, or `None` where they do not begin as one.
    pub fn from_bytes(bytes: &[u8; CHUNK_HEADER_BYTES]) -> Option<Self> {
        let mut words = [0; CHUNK_HEADER_BYTES / 8];
        for (word, from) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*from);
        }
        let [magic, kind_and_cpu, payload_bytes, checksum, first, lost_before, first_time, _] =
            words;
        if magic != u64::from_le_bytes(CHUNK_MAGIC) {
            return None;
        }
        let (kind, cpu) = (kind_and_cpu as u32, (kind_and_cpu >> 32) as u32);
        Some(Self { kind, cpu, payload_bytes, checksum, first, lost_before, first_time })
    }

    fn words(&self) -> [u64; CHUNK_HEADER_BYTES / 8] {
        [
            u64::from_le_bytes(CHUNK_MAGIC),
            u64::from(self.kind) | u64::from(self.cpu) << 32,
            self.payload_bytes,
            self.checksum,
            self.first,
            self.lost_before,
            self.first_time,
            0,
        ]
    }
}

/// A whole chunk, ready to be written. `payload` is padded with zeros to a multiple of 8.
pub fn chunk(header: ChunkHeader, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(chunk_bytes(payload.len()));
    push_chunk(&mut bytes, header, |bytes| bytes.extend_from_slice(payload));
    bytes
}

/// Bytes of a chunk with `payload_bytes` bytes of payload.
pub const fn chunk_bytes(payload_bytes: usize) -> usize {
    CHUNK_HEADER_BYTES + payload_bytes.next_multiple_of(8)
}

/// Appends a whole chunk to `bytes`, whose payload `push_payload` appends. Allocates only where
/// `bytes` has no room.
pub fn push_chunk(
    bytes: &mut Vec<u8>,
    header: ChunkHeader,
    push_payload: impl FnOnce(&mut Vec<u8>),
) {
    let start = bytes.len();
    bytes.resize(start + CHUNK_HEADER_BYTES, 0);
    push_payload(bytes);
    bytes.resize(start + (bytes.len() - start).next_multiple_of(8), 0);
    let (head, payload) = bytes[start..].split_at_mut(CHUNK_HEADER_BYTES);
    let mut header = ChunkHeader { payload_bytes: payload.len() as u64, ..header };
    header.checksum = checksum(&header, payload);
    for (to, word) in head.as_chunks_mut().0.iter_mut().zip(header.words()) {
        *to = word.to_le_bytes();
    }
}

/// The checksum of a chunk: over the little-endian 64-bit words of its header, the checksum taken
/// as 0, and of its payload, `a` is the sum of the words and `b` the sum of all values that `a`
/// took, both modulo 2^64; the checksum is `a` xor `b` rotated left by 32.
pub fn checksum(header: &ChunkHeader, payload: &[u8]) -> u64 {
    let header = ChunkHeader { checksum: 0, ..*header };
    let (blocks, rest) = payload.as_chunks().0.as_chunks();
    let sums = sum(header.words().into_iter(), [0, 0]);
    let sums = blocks.iter().fold(sums, |[a, b], block: &[[u8; 8]; 4]| {
        // Four steps at once: what follows waits for two additions instead of eight.
        let [w, x, y, z] = block.map(u64::from_le_bytes);
        let all = w.wrapping_add(x).wrapping_add(y).wrapping_add(z);
        let weighted = w
            .wrapping_mul(4)
            .wrapping_add(x.wrapping_mul(3))
            .wrapping_add(y.wrapping_mul(2))
            .wrapping_add(z);
        [a.wrapping_add(all), b.wrapping_add(a.wrapping_mul(4).wrapping_add(weighted))]
    });
    let [a, b] = sum(rest.iter().map(|bytes| u64::from_le_bytes(*bytes)), sums);
    a ^ b.rotate_left(32)
}

fn sum(words: impl Iterator<Item = u64>, sums: [u64; 2]) -> [u64; 2] {
    words.fold(sums, |[a, b], word| {
        let a = a.wrapping_add(word);
        [a, b.wrapping_add(a)]
    })
}

/// The file's header; `unix_nanoseconds` is when it was begun.
pub fn file_header(unix_nanoseconds: u64) -> [u8; FILE_HEADER_BYTES] {
    let mut bytes = [0; FILE_HEADER_BYTES];
    let words = [
        u64::from_le_bytes(FILE_MAGIC),
        u64::from(FILE_VERSION) | (FILE_HEADER_BYTES as u64) << 32,
        unix_nanoseconds,
        0,
    ];
    for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
        *to = word.to_le_bytes();
    }
    bytes
}

/// The counters at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Nanoseconds since 1970 UTC on the recording machine.
    pub unix_nanoseconds: u64,
    /// Time of the newest record that had been read by then, in ticks; 0 where there was none.
    pub newest_ticks: u64,
    /// What the sample was taken for; empty for the regular ones.
    pub label: String,
    /// The counters.
    pub counters: Vec<Counter>,
}

impl Sample {
    /// The payload of a [`ChunkKind::Sample`].
    pub fn to_payload(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(sample_bytes(self.counters.len()));
        let counters = self.counters.iter().copied();
        push_sample(&mut payload, self.unix_nanoseconds, self.newest_ticks, &self.label, counters);
        payload
    }

    /// The sample that `payload` is, or `None` where it is too short for its fields.
    pub fn from_payload(payload: &[u8]) -> Option<Self> {
        let (fixed, counters) = payload.split_at_checked(SAMPLE_FIXED_BYTES)?;
        let count = usize::try_from(word(fixed, 16 + LABEL_BYTES)?).ok()?;
        let counters = counters.as_chunks::<COUNTER_BYTES>().0.get(..count)?;
        Some(Self {
            unix_nanoseconds: word(fixed, 0)?,
            newest_ticks: word(fixed, 8)?,
            label: text(fixed.get(16..16 + LABEL_BYTES)?),
            counters: counters.iter().filter_map(counter).collect(),
        })
    }
}

/// Bytes of the payload of a sample of `counters` counters.
pub const fn sample_bytes(counters: usize) -> usize {
    SAMPLE_FIXED_BYTES + counters * COUNTER_BYTES
}

/// Appends to `payload` what [`Sample::to_payload`] gives of the same values.
pub fn push_sample(
    payload: &mut Vec<u8>,
    unix_nanoseconds: u64,
    newest_ticks: u64,
    label: &str,
    counters: impl Iterator<Item = Counter>,
) {
    push(payload, unix_nanoseconds);
    push(payload, newest_ticks);
    push_text(payload, label, LABEL_BYTES);
    let first = payload.len() + 8;
    push(payload, 0);
    for counter in counters {
        push_text(payload, counter.name.as_str(), 24);
        push(payload, counter.cpu.map_or(u64::from(MACHINE_SCOPE), |cpu| cpu as u64));
        push(payload, counter.value);
    }
    let count = (payload.len() - first) / COUNTER_BYTES;
    payload[first - 8..first].copy_from_slice(&(count as u64).to_le_bytes());
}

fn counter(bytes: &[u8; COUNTER_BYTES]) -> Option<Counter> {
    let cpu = word(bytes, 24)? as u32;
    Some(Counter {
        name: Text::new(&text(bytes.get(..24)?)),
        cpu: if cpu == MACHINE_SCOPE { None } else { Some(cpu as usize) },
        value: word(bytes, 32)?,
    })
}

/// What a session came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Nanoseconds since 1970 UTC on the recording machine.
    pub unix_nanoseconds: u64,
    /// Per CPU: records written by the CPU up to the last look, and of these those lost in the
    /// ring.
    pub cpus: Vec<(u64, u64)>,
}

impl End {
    /// The payload of a [`ChunkKind::End`].
    pub fn to_payload(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(end_bytes(self.cpus.len()));
        push_end(&mut payload, self.unix_nanoseconds, self.cpus.iter().copied());
        payload
    }

    /// The end that `payload` is, or `None` where it is too short for its fields.
    pub fn from_payload(payload: &[u8]) -> Option<Self> {
        let count = usize::try_from(word(payload, 8)?).ok()?;
        let cpus = payload.get(END_FIXED_BYTES..)?.as_chunks::<END_CPU_BYTES>().0.get(..count)?;
        let cpus = cpus
            .iter()
            .map(|bytes| Some((word(bytes, 0)?, word(bytes, 8)?)))
            .collect::<Option<_>>()?;
        Some(Self { unix_nanoseconds: word(payload, 0)?, cpus })
    }
}

/// Bytes of the payload of an end of `cpus` CPUs.
pub const fn end_bytes(cpus: usize) -> usize {
    END_FIXED_BYTES + cpus * END_CPU_BYTES
}

/// Appends to `payload` what [`End::to_payload`] gives of the same values.
pub fn push_end(
    payload: &mut Vec<u8>,
    unix_nanoseconds: u64,
    cpus: impl ExactSizeIterator<Item = (u64, u64)>,
) {
    push(payload, unix_nanoseconds);
    push(payload, cpus.len() as u64);
    for (written, lost) in cpus {
        push(payload, written);
        push(payload, lost);
    }
}

/// The payload of a [`ChunkKind::Directory`]: when and where it was found, and its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Nanoseconds since 1970 UTC on the recording machine.
    pub unix_nanoseconds: u64,
    /// Offset in the memory that was read, in bytes.
    pub offset: u64,
    /// The directory from its start up to its counters.
    pub words: Vec<u64>,
}

impl Found {
    /// The payload of a [`ChunkKind::Directory`].
    pub fn to_payload(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(FOUND_BYTES);
        push_found(&mut payload, self.unix_nanoseconds, self.offset, self.words.iter().copied());
        payload
    }

    /// The directory that `payload` is, or `None` where it is too short to be one.
    pub fn from_payload(payload: &[u8]) -> Option<Self> {
        let words = payload.get(FOUND_FIXED_BYTES..FOUND_BYTES)?.as_chunks().0;
        let words = words.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        Some(Self { unix_nanoseconds: word(payload, 0)?, offset: word(payload, 8)?, words })
    }
}

/// Bytes of the payload of a [`ChunkKind::Directory`].
pub const FOUND_BYTES: usize = FOUND_FIXED_BYTES + DESCRIPTION_BYTES;

/// Appends to `payload` what [`Found::to_payload`] gives of the same values.
pub fn push_found(
    payload: &mut Vec<u8>,
    unix_nanoseconds: u64,
    offset: u64,
    words: impl Iterator<Item = u64>,
) {
    push(payload, unix_nanoseconds);
    push(payload, offset);
    words.for_each(|word| push(payload, word));
}

/// The little-endian word at byte `offset`, if the bytes go that far.
pub fn word(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk().map(|word| u64::from_le_bytes(*word))
}

fn text(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn push(payload: &mut Vec<u8>, word: u64) {
    payload.extend_from_slice(&word.to_le_bytes());
}

fn push_text(payload: &mut Vec<u8>, text: &str, bytes: usize) {
    let end = text.floor_char_boundary(bytes);
    payload.extend_from_slice(text.get(..end).unwrap_or_default().as_bytes());
    payload.resize(payload.len() + bytes - end, 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn a_chunk_header_survives_and_any_flipped_bit_shows_in_the_checksum() {
        let header = ChunkHeader {
            kind: 2,
            cpu: 3,
            first: 4,
            lost_before: 5,
            first_time: 6,
            ..ChunkHeader::default()
        };
        let bytes = chunk(header, &[1; 13]);
        assert_eq!(bytes.len(), CHUNK_HEADER_BYTES + 16);
        let read = |bytes: &[u8]| {
            let (head, payload) = bytes.split_at(CHUNK_HEADER_BYTES);
            let header = ChunkHeader::from_bytes(head.try_into().unwrap())?;
            Some((header, header.checksum == checksum(&header, payload)))
        };
        let (again, is_sound) = read(&bytes).expect("it has the magic");
        assert!(is_sound);
        assert_eq!((again.cpu, again.first, again.lost_before, again.payload_bytes), (3, 4, 5, 16));
        // The header's last word is reserved: it is read as 0 whatever it holds.
        for bit in (0..56 * 8).chain(64 * 8..bytes.len() * 8) {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged).is_none_or(|(_, is_sound)| !is_sound), "bit {bit}");
        }
    }

    #[test]
    fn payloads_survive_and_short_ones_are_refused() {
        let sample = Sample {
            unix_nanoseconds: 1,
            newest_ticks: 2,
            label: "written \u{e9}".repeat(20),
            counters: vec![
                Counter { name: Text::new("maps"), cpu: None, value: 3 },
                Counter { name: Text::new("exits_smc"), cpu: Some(2), value: u64::MAX },
            ],
        };
        let payload = sample.to_payload();
        let again = Sample::from_payload(&payload).unwrap();
        assert_eq!(again.counters, sample.counters);
        assert!(sample.label.starts_with(&again.label) && again.label.len() > 60);
        assert_eq!(Sample::from_payload(&payload[..payload.len() - 1]), None);
        let end = End { unix_nanoseconds: 9, cpus: vec![(5, 1), (6, 0)] };
        assert_eq!(End::from_payload(&end.to_payload()), Some(end.clone()));
        assert_eq!(End::from_payload(&end.to_payload()[..31]), None);
        let found = Found { unix_nanoseconds: 1, offset: 2, words: vec![7; DESCRIPTION_BYTES / 8] };
        assert_eq!(Found::from_payload(&found.to_payload()), Some(found));
        assert_eq!(Found::from_payload(&[0; 100]), None);
    }

    #[test]
    fn the_document_names_every_kind_and_magic_as_the_code_does() {
        use alloc::format;
        use oche_types::event::Kind;
        let document = include_str!("../../../docs/trace.md");
        for kind in Kind::ALL {
            let row = format!("| {} | {} |", kind.number(), kind.name());
            assert!(document.contains(&row), "docs/trace.md lacks `{row}`");
        }
        for magic in [FILE_MAGIC, CHUNK_MAGIC] {
            assert!(document.contains(&format!("magic `{}`", magic.escape_ascii())));
        }
        assert!(document.contains(&format!("its first {DESCRIPTION_BYTES:#x} bytes")));
    }
}
