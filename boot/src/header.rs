//! The arm64 `Image` header. The entry assembly contains Oche's own; this module checks the
//! guest's.
//!
//! Source of all offsets and flags: Linux `Documentation/arm64/booting.rst`, section 4.

/// Bytes in the header.
pub const HEADER_BYTES: usize = 64;
/// Offset of `text_offset`, u64.
pub const TEXT_OFFSET: usize = 0x08;
/// Offset of `image_size`, u64: memory the image needs from its first byte on.
pub const IMAGE_SIZE: usize = 0x10;
/// Offset of `flags`, u64.
pub const FLAGS: usize = 0x18;
/// Offset of the magic.
pub const MAGIC_OFFSET: usize = 0x38;
/// The magic.
pub const MAGIC: [u8; 4] = *b"ARM\x64";
/// Oche's own flags: little-endian (bit 0 clear), 4 KiB pages (bits 2:1 = 1), placed anywhere (bit
/// 3).
pub const OWN_FLAGS: u64 = 1 << 1 | 1 << 3;
/// The limit of `text_offset`: it must be within the 2 MiB that the image is aligned to.
pub const TEXT_OFFSET_LIMIT: u64 = 2 << 20;
/// The largest `image_size` that is accepted, 1 GiB.
pub const IMAGE_SIZE_LIMIT: u64 = 1 << 30;

/// A guest kernel's requirements for its place in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Bytes between a 2 MiB-aligned address and the image; below 2 MiB.
    pub text_offset: u64,
    /// Bytes of memory that the image needs, BSS included.
    pub image_size: u64,
}

/// Why a guest kernel is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelError {
    /// There are fewer than 64 bytes.
    Truncated,
    /// It starts like a gzip, xz, zstd, bzip2, lz4 or EFI zboot file: it must be unpacked first.
    Compressed,
    /// The magic at 0x38 is not "ARM\x64".
    BadMagic,
    /// It is built for big-endian.
    BigEndian,
    /// It has 64 KiB pages, which no DART can serve.
    Pages64K,
    /// `image_size` is 0, too large, or smaller than the file; or `text_offset` is 2 MiB or more.
    BadSize,
}

impl KernelError {
    /// The reason in words, for one line on the console.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Truncated => "the guest kernel is shorter than its header",
            Self::Compressed => "the guest kernel is compressed; pack the unpacked arm64 Image",
            Self::BadMagic => "the guest kernel has no arm64 Image magic",
            Self::BigEndian => "the guest kernel is big-endian",
            Self::Pages64K => "the guest kernel has 64 KiB pages; a DART serves 4 KiB and 16 KiB",
            Self::BadSize => "the guest kernel's header has an impossible size",
        }
    }
}

/// Reads the header at the beginning of `image`, which is `file_bytes` long in all.
///
/// # Errors
///
/// A [`KernelError`] for everything that Oche does not start.
pub fn parse_kernel(image: &[u8], file_bytes: u64) -> Result<Kernel, KernelError> {
    if is_compressed(image) {
        return Err(KernelError::Compressed);
    }
    let header = image.get(..HEADER_BYTES).ok_or(KernelError::Truncated)?;
    if header.get(MAGIC_OFFSET..MAGIC_OFFSET + 4) != Some(&MAGIC) {
        return Err(KernelError::BadMagic);
    }
    let flags = word(header, FLAGS);
    if flags & 1 != 0 {
        return Err(KernelError::BigEndian);
    }
    if flags >> 1 & 3 == 3 {
        return Err(KernelError::Pages64K);
    }
    let kernel =
        Kernel { text_offset: word(header, TEXT_OFFSET), image_size: word(header, IMAGE_SIZE) };
    let fits = kernel.image_size >= file_bytes && kernel.image_size <= IMAGE_SIZE_LIMIT;
    if kernel.image_size == 0 || !fits || kernel.text_offset >= TEXT_OFFSET_LIMIT {
        return Err(KernelError::BadSize);
    }
    Ok(kernel)
}

/// Whether the bytes begin like a compressed kernel. The last is EFI zboot: "MZ\0\0zimg".
fn is_compressed(image: &[u8]) -> bool {
    const MAGICS: [&[u8]; 6] = [
        &[0x1f, 0x8b],
        b"\xfd7zXZ\0",
        &[0x28, 0xb5, 0x2f, 0xfd],
        b"BZh",
        &[0x02, 0x21, 0x4c, 0x18],
        b"MZ\0\0zimg",
    ];
    MAGICS.iter().any(|magic| image.starts_with(magic))
}

/// The little-endian u64 at `offset`, or 0 outside (callers have checked the length).
fn word(bytes: &[u8], offset: usize) -> u64 {
    bytes
        .get(offset..offset + 8)
        .and_then(|slice| slice.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> [u8; 64] {
        let mut header = [0u8; 64];
        header[IMAGE_SIZE..IMAGE_SIZE + 8].copy_from_slice(&0x20_0000u64.to_le_bytes());
        header[FLAGS] = 0xa;
        header[MAGIC_OFFSET..MAGIC_OFFSET + 4].copy_from_slice(&MAGIC);
        header
    }

    #[test]
    fn a_good_header_gives_the_size() {
        let kernel = parse_kernel(&good(), 0x1000).expect("good");
        assert_eq!(kernel, Kernel { text_offset: 0, image_size: 0x20_0000 });
    }

    #[test]
    fn each_flaw_has_its_own_reason() {
        let with = |offset: usize, value: u8| {
            let mut header = good();
            header[offset] = value;
            parse_kernel(&header, 0x1000)
        };
        assert_eq!(with(MAGIC_OFFSET, b'X'), Err(KernelError::BadMagic));
        assert_eq!(with(FLAGS, 0xe), Err(KernelError::Pages64K));
        assert_eq!(with(FLAGS, 0xb), Err(KernelError::BigEndian));
        assert_eq!(with(IMAGE_SIZE + 7, 1), Err(KernelError::BadSize));
        assert_eq!(with(TEXT_OFFSET + 3, 1), Err(KernelError::BadSize));
        assert_eq!(parse_kernel(&good(), 0x20_0001), Err(KernelError::BadSize));
        assert_eq!(parse_kernel(&good()[..63], 63), Err(KernelError::Truncated));
        assert_eq!(parse_kernel(&[0x1f, 0x8b, 8], 3), Err(KernelError::Compressed));
    }
}
