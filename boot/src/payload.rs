//! The payload, which follows Oche's own image: the guest kernel, its initrd and the options, in a
//! container.
//!
//! Header, little-endian: magic u64, version u32, count u32, then `count` entries of 24 bytes:
//! kind u32, reserved u32, offset u64 in bytes from the header's start, length u64 in bytes.
//! Every item starts at a multiple of 4 KiB.

/// The first eight bytes.
pub const MAGIC: [u8; 8] = *b"OCHEPAYL";
/// The only version.
pub const VERSION: u32 = 1;
/// Most entries that are read; the rest of a larger count is an error.
pub const MAX_ENTRIES: u32 = 16;
/// Bytes before the entries.
pub const HEADER_BYTES: usize = 16;
/// Bytes in an entry.
pub const ENTRY_BYTES: usize = 24;
/// Bytes that an item's offset is a multiple of.
pub const ITEM_ALIGNMENT: u64 = 4096;
/// Bytes that hold the header and as many entries as there may be.
pub const MAX_HEADER_BYTES: usize = HEADER_BYTES + ENTRY_BYTES * MAX_ENTRIES as usize;

/// The kind of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemKind {
    /// A raw arm64 `Image`.
    Kernel,
    /// The guest's initrd, in any format that the kernel supports.
    Initrd,
    /// Lines of `oche.NAME=VALUE`.
    Options,
}

impl ItemKind {
    /// The number in the container.
    pub fn number(self) -> u32 {
        match self {
            Self::Kernel => 1,
            Self::Initrd => 2,
            Self::Options => 3,
        }
    }
}

/// The place of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Bytes from the header's start.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

/// The items of a payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// The guest's kernel.
    pub kernel: Option<Item>,
    /// The guest's initrd.
    pub initrd: Option<Item>,
    /// The options text.
    pub options: Option<Item>,
}

/// Why a payload is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadError {
    /// No magic: there is no payload after Oche's image.
    BadMagic,
    /// A version other than 1.
    BadVersion,
    /// More than [`MAX_ENTRIES`] entries, or the header is cut short.
    BadCount,
    /// An item is not 4 KiB aligned, or lies past `limit`, or its end wraps.
    BadItem,
}

impl PayloadError {
    /// The reason in words, for one line on the console.
    pub fn reason(self) -> &'static str {
        match self {
            Self::BadMagic => "no payload behind Oche's image (pack a kernel with it)",
            Self::BadVersion => "the payload has an unknown version",
            Self::BadCount => "the payload's header is damaged",
            Self::BadItem => "a payload item lies outside the image",
        }
    }
}

/// Reads the header at the start of `bytes`. Items must end within `limit` bytes of it. Items of a
/// kind that this version does not know are skipped; of two of one kind, the later counts.
///
/// # Errors
///
/// A [`PayloadError`] if the container is malformed.
pub fn parse(bytes: &[u8], limit: u64) -> Result<Payload, PayloadError> {
    if bytes.get(..8) != Some(&MAGIC) {
        return Err(PayloadError::BadMagic);
    }
    if u32_at(bytes, 8) != Some(VERSION) {
        return Err(PayloadError::BadVersion);
    }
    let count =
        u32_at(bytes, 12).filter(|count| *count <= MAX_ENTRIES).ok_or(PayloadError::BadCount)?;
    let mut payload = Payload::default();
    for index in 0..count as usize {
        let entry = HEADER_BYTES + index * ENTRY_BYTES;
        let kind = u32_at(bytes, entry).ok_or(PayloadError::BadCount)?;
        let offset = u64_at(bytes, entry + 8).ok_or(PayloadError::BadCount)?;
        let length = u64_at(bytes, entry + 16).ok_or(PayloadError::BadCount)?;
        let end = offset.checked_add(length).ok_or(PayloadError::BadItem)?;
        if end > limit || !offset.is_multiple_of(ITEM_ALIGNMENT) {
            return Err(PayloadError::BadItem);
        }
        let item = Some(Item { offset, length });
        match kind {
            1 => payload.kernel = item,
            2 => payload.initrd = item,
            3 => payload.options = item,
            _ => {}
        }
    }
    Ok(payload)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..offset.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..offset.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(entries: &[(u32, u64, u64)]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((entries.len() as u32).to_le_bytes());
        for (kind, offset, length) in entries {
            bytes.extend(kind.to_le_bytes());
            bytes.extend(0u32.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
            bytes.extend(length.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn items_are_found_and_unknown_kinds_skipped() {
        let bytes = container(&[(1, 4096, 10), (9, 8192, 1), (3, 12288, 5)]);
        let payload = parse(&bytes, 1 << 20).expect("good");
        assert_eq!(payload.kernel, Some(Item { offset: 4096, length: 10 }));
        assert_eq!(payload.initrd, None);
        assert_eq!(payload.options, Some(Item { offset: 12288, length: 5 }));
    }

    #[test]
    fn an_item_outside_or_unaligned_is_refused() {
        assert_eq!(parse(&container(&[(1, 4096, 1 << 20)]), 1 << 20), Err(PayloadError::BadItem));
        assert_eq!(parse(&container(&[(1, 4096, u64::MAX)]), u64::MAX), Err(PayloadError::BadItem));
        assert_eq!(parse(&container(&[(1, 4097, 1)]), 1 << 20), Err(PayloadError::BadItem));
    }

    #[test]
    fn every_truncation_is_an_error_and_none_a_panic() {
        let bytes = container(&[(1, 4096, 10), (2, 8192, 1)]);
        for length in 0..bytes.len() {
            assert!(parse(&bytes[..length], 1 << 20).is_err(), "{length}");
        }
    }
}
