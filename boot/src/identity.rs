//! The identity of an image of Oche: a record of board and version that tools find in the image.
//!
//! 48 bytes: magic of 16, board of 16 and version of 16 bytes, each text filled up with zeros.

/// The first sixteen bytes. Not written out anywhere else in the image.
pub const MAGIC: [u8; 16] = *b"OCHE identity \x01\x9d";
/// Bytes in a text.
const TEXT_BYTES: usize = 16;
/// Bytes in the record.
pub const RECORD_BYTES: usize = MAGIC.len() + 2 * TEXT_BYTES;

/// The contents of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity<'a> {
    /// The board, such as `m1`.
    pub board: &'a str,
    /// The version, such as `0.1.0`.
    pub version: &'a str,
}

/// The record for `board` and `version`; of longer texts the first 16 bytes.
pub const fn record(board: &str, version: &str) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    let mut index = 0;
    while index < MAGIC.len() {
        record[index] = MAGIC[index];
        index += 1;
    }
    record = with_text(record, MAGIC.len(), board.as_bytes());
    with_text(record, MAGIC.len() + TEXT_BYTES, version.as_bytes())
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

/// The first record in `image`.
pub fn find(image: &[u8]) -> Option<Identity<'_>> {
    let start = image.windows(MAGIC.len()).position(|bytes| bytes == MAGIC)? + MAGIC.len();
    let text = |start: usize| {
        let bytes = image.get(start..start + TEXT_BYTES)?;
        str::from_utf8(bytes).ok().map(|text| text.trim_end_matches('\0'))
    };
    Some(Identity { board: text(start)?, version: text(start + TEXT_BYTES)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_found_wherever_it_lies() {
        let mut image = vec![0xa5; 777];
        image.extend(record("qemu-virt", "0.1.0"));
        image.extend([7; 9]);
        assert_eq!(find(&image), Some(Identity { board: "qemu-virt", version: "0.1.0" }));
        assert_eq!(find(&image[..777 + RECORD_BYTES - 1]), None, "cut short");
        assert_eq!(find(b"an image without one"), None);
    }
}
