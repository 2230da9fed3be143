//! The identity of an image of Oche: a record of board, version, commit and build that tools find
//! in the image, and that the image shows of itself.
//!
//! 88 bytes: magic of 16, board of 16, version of 16 and commit of 32 bytes, each text filled up
//! with zeros, and the build id as a little-endian 64-bit number. The compiler fills in board and
//! version; the commit and the build id are written into the linked file, so that they cost no
//! compilation (`oche::stamp`).

use core::fmt;

/// The first sixteen bytes. Not written out anywhere else in the image.
pub const MAGIC: [u8; 16] = *b"OCHE identity \x02\x9d";
/// Bytes of the texts for board and version.
const TEXT_BYTES: usize = 16;
/// Offset and bytes of the text for the commit.
const COMMIT: usize = VERSION + TEXT_BYTES;
const COMMIT_BYTES: usize = 32;
const BOARD: usize = MAGIC.len();
const VERSION: usize = BOARD + TEXT_BYTES;
/// Offset of the build id.
const BUILD: usize = COMMIT + COMMIT_BYTES;
/// Bytes in the record.
pub const RECORD_BYTES: usize = BUILD + 8;
/// The commit of an image that was not built from a checkout.
pub const NO_COMMIT: &str = "unknown";

/// What is in an image, in twelve hexadecimal digits: the first 48 bits of the SHA-256 of all its
/// bytes, with zeros in place of the build id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildId(u64);

impl BuildId {
    /// Digits of the text.
    pub const DIGITS: usize = 12;

    /// The id of an image whose SHA-256 is `hash`.
    pub fn of_hash(hash: &[u8; 32]) -> Self {
        let [a, b, c, d, e, f, ..] = *hash;
        // 0 stands for none, and is no image's in practice.
        Self(u64::from_be_bytes([0, 0, a, b, c, d, e, f]).max(1))
    }

    /// The id that twelve hexadecimal digits are.
    pub fn parse(text: &str) -> Option<Self> {
        let is_digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = u64::from_str_radix(text, 16).ok()?;
        (text.len() == Self::DIGITS && is_digits && id != 0).then_some(Self(id))
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:012x}", self.0)
    }
}

/// The contents of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity<'a> {
    /// The board, such as `m1`.
    pub board: &'a str,
    /// The version, such as `0.1.0`.
    pub version: &'a str,
    /// The first twelve digits of the commit, with `-dirty` behind them if the tree had changes; or
    /// [`NO_COMMIT`]. Empty in an image that was never stamped.
    pub commit: &'a str,
    /// The build, or `None` in an image that was never stamped.
    pub build: Option<BuildId>,
}

/// `0.1.0 (ceabe3a4f01d, build 3f2a9c1be0d4)`: all but the board.
impl fmt::Display for Identity<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.build {
            Some(build) => {
                write!(formatter, "{} ({}, build {build})", self.version, self.commit)
            }
            None => write!(formatter, "{} (not stamped)", self.version),
        }
    }
}

/// The record for `board` and `version`, not stamped; of longer texts the first 16 bytes.
pub const fn record(board: &str, version: &str) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    let mut index = 0;
    while index < MAGIC.len() {
        record[index] = MAGIC[index];
        index += 1;
    }
    record = with_text(record, BOARD, board.as_bytes());
    with_text(record, VERSION, version.as_bytes())
}

const fn with_text(
    mut record: [u8; RECORD_BYTES],
    start: usize,
    text: &[u8],
) -> [u8; RECORD_BYTES] {
    let mut index = 0;
    while index < text.len() && index < TEXT_BYTES {
        record[start + index] = text[index];
        index += 1;
    }
    record
}

/// Where the first record in `image` is.
pub fn position(image: &[u8]) -> Option<usize> {
    let start = image.windows(MAGIC.len()).position(|bytes| bytes == MAGIC)?;
    (image.len() - start >= RECORD_BYTES).then_some(start)
}

/// The first record in `image`.
pub fn find(image: &[u8]) -> Option<Identity<'_>> {
    read(image.get(position(image)?..)?.first_chunk()?)
}

/// The contents of `record`. Its magic is not looked at: the code that would compare it has a copy
/// of it, which tools would find in the image.
pub fn read(record: &[u8; RECORD_BYTES]) -> Option<Identity<'_>> {
    let text = |start: usize, length: usize| {
        let bytes = record.get(start..start + length)?;
        str::from_utf8(bytes).ok().map(|text| text.trim_end_matches('\0'))
    };
    let (_, build) = record.split_last_chunk()?;
    Some(Identity {
        board: text(BOARD, TEXT_BYTES)?,
        version: text(VERSION, TEXT_BYTES)?,
        commit: text(COMMIT, COMMIT_BYTES)?,
        build: Some(u64::from_le_bytes(*build)).filter(|id| *id != 0).map(BuildId),
    })
}

/// Writes the commit, of which 32 bytes count, and the build id into the record that `bytes` begin
/// with. Returns whether they do.
pub fn stamp(bytes: &mut [u8], commit: &str, build: Option<BuildId>) -> bool {
    let Some(record) = bytes.get_mut(..RECORD_BYTES).filter(|record| record.starts_with(&MAGIC))
    else {
        return false;
    };
    let commit = commit.bytes().chain(core::iter::repeat(0)).take(COMMIT_BYTES);
    let build = build.map_or(0, |id| id.0).to_le_bytes();
    record.iter_mut().skip(COMMIT).zip(commit.chain(build)).for_each(|(to, byte)| *to = byte);
    true
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::string::ToString;
    use std::vec;

    fn image() -> vec::Vec<u8> {
        let mut image = vec![0xa5; 777];
        image.extend(record("qemu-virt", "0.1.0"));
        image.extend([7; 9]);
        image
    }

    #[test]
    fn a_record_is_found_wherever_it_lies() {
        let image = image();
        let found = find(&image).expect("a record");
        assert_eq!((found.board, found.version), ("qemu-virt", "0.1.0"));
        assert_eq!(found.to_string(), "0.1.0 (not stamped)");
        assert_eq!(find(&image[..777 + RECORD_BYTES - 1]), None, "cut short");
        assert_eq!(find(b"an image without one"), None);
    }

    #[test]
    fn a_stamp_is_read_back_and_changes_nothing_else() {
        let mut image = image();
        let at = position(&image).expect("a record");
        assert!(!stamp(&mut image, "x", None), "no record is at the start");
        let build = BuildId::parse("3f2a9c1be0d4");
        assert!(stamp(&mut image[at..], "ceabe3a4f01d-dirty", build));
        let found = find(&image).expect("a record");
        assert_eq!((found.board, found.version), ("qemu-virt", "0.1.0"));
        assert_eq!(found.to_string(), "0.1.0 (ceabe3a4f01d-dirty, build 3f2a9c1be0d4)");
        assert!(stamp(&mut image[at..], "", None));
        assert_eq!(image, self::image(), "as it was, with what is around it");
        assert!(stamp(&mut image[at..], &"c".repeat(40), None));
        assert_eq!(find(&image).map(|found| found.commit.len()), Some(COMMIT_BYTES));
    }

    #[test]
    fn a_build_id_is_the_beginning_of_the_hash_and_has_twelve_digits() {
        let mut hash = [0xff; 32];
        hash[..6].copy_from_slice(&[0, 0x2a, 0x9c, 0x1b, 0xe0, 0xd4]);
        let id = BuildId::of_hash(&hash);
        assert_eq!(id.to_string(), "002a9c1be0d4");
        assert_eq!(BuildId::parse("002A9C1BE0D4"), Some(id));
        for other in ["002a9c1be0d", "002a9c1be0d4f", "+02a9c1be0d4", "000000000000", ""] {
            assert_eq!(BuildId::parse(other), None, "{other}");
        }
    }
}
