//! EFI zboot: a compressed kernel inside a small EFI program, as several distributions ship it.
//!
//! Offsets from the file's start: "MZ" at 0, "zimg" at 4, the payload's offset and size in bytes as
//! little-endian u32 at 8 and 12, the name of the compression at 24, ended by a zero.
//! Source: Linux `drivers/firmware/efi/libstub/zboot-header.S`. The names are those of 6.1's
//! `Makefile.zboot` beside it; 7.3's has gzip and zstd alone.

use std::io::Read;

use anyhow::{Context, Result, bail};

/// Bytes for the compression's name.
const NAME_BYTES: usize = 32;
/// The most memory that lzma may ask for, in KiB: `xz -9`, which Linux uses, asks for 64 MiB.
const LZMA_KIB_LIMIT: u32 = 1 << 20;

/// Whether the file is one.
pub(super) fn is_zboot(file: &[u8]) -> bool {
    file.starts_with(b"MZ") && file.get(4..8) == Some(b"zimg")
}

/// Takes the kernel out of the file, at most `limit` bytes of it.
pub(super) fn expand(file: &[u8], limit: u64) -> Result<Vec<u8>> {
    let word = |offset: usize| -> Result<usize> {
        let bytes = file.get(offset..offset + 4).context("its EFI zboot header is cut short")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    let (start, size) = (word(8)?, word(12)?);
    let payload = start
        .checked_add(size)
        .and_then(|end| file.get(start..end))
        .context("its EFI zboot payload lies outside the file: fetch it again")?;
    let name = compression(file)?;
    match name.as_str() {
        "gzip" => read(flate2::read::GzDecoder::new(payload), limit),
        "zstd" | "zstd22" => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(payload);
            read(decoder.context("its EFI zboot payload is damaged: fetch it again")?, limit)
        }
        "xz" | "xzkern" => {
            read(lzma_rust2::XzReader::new_mem_limit(payload, false, LZMA_KIB_LIMIT), limit)
        }
        "lzma" => {
            let decoder = lzma_rust2::LzmaReader::new_mem_limit(payload, LZMA_KIB_LIMIT, None);
            read(decoder.context("its EFI zboot payload is damaged: fetch it again")?, limit)
        }
        _ => bail!(
            "it is an EFI zboot file compressed with `{name}`; gzip, zstd, xz and lzma are known: take the \
             raw arm64 Image out of it (`unzboot KERNEL Image`) and name that"
        ),
    }
}

/// The name of the file's compression.
pub(super) fn compression(file: &[u8]) -> Result<String> {
    let name = file.get(24..24 + NAME_BYTES).context("its EFI zboot header is cut short")?;
    Ok(String::from_utf8_lossy(name.split(|byte| *byte == 0).next().unwrap_or(&[])).into_owned())
}

/// Reads all of a decoder, one byte more than `limit` at the most.
fn read(decoder: impl Read, limit: u64) -> Result<Vec<u8>> {
    let mut expanded = Vec::new();
    decoder
        .take(limit.saturating_add(1))
        .read_to_end(&mut expanded)
        .context("its EFI zboot payload is damaged: fetch it again")?;
    if expanded.len() as u64 > limit {
        bail!("it expands to more than 1 GiB: no kernel does");
    }
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::{compression, expand, is_zboot};
    use lzma_rust2::{LzmaOptions, LzmaWriter, XzOptions, XzWriter};
    use proptest::prelude::*;
    use std::io::Write;

    fn zboot(name: &[u8], payload: &[u8], size: usize) -> Vec<u8> {
        let mut file = b"MZ\0\0zimg".to_vec();
        file.extend(64_u32.to_le_bytes());
        file.extend((size as u32).to_le_bytes());
        file.resize(24, 0);
        file.extend(name);
        file.resize(64, 0);
        file.extend(payload);
        file
    }

    /// A kernel's bytes in every known compression, by its name.
    fn packed(kernel: &[u8]) -> [(&'static str, Vec<u8>); 6] {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(kernel).expect("packed");
        let gzip = gzip.finish().expect("packed");
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let zstd = ruzstd::encoding::compress_to_vec(kernel, level);
        let mut xz = XzWriter::new(Vec::new(), XzOptions::default()).expect("a writer");
        xz.write_all(kernel).expect("packed");
        let xz = xz.finish().expect("packed");
        let options = LzmaOptions::default();
        let mut lzma = LzmaWriter::new_use_header(Vec::new(), &options, None).expect("a writer");
        lzma.write_all(kernel).expect("packed");
        let lzma = lzma.finish().expect("packed");
        [
            ("gzip", gzip),
            ("zstd", zstd.clone()),
            ("zstd22", zstd),
            ("xz", xz.clone()),
            ("xzkern", xz),
            ("lzma", lzma),
        ]
    }

    #[test]
    fn every_known_compression_is_expanded() {
        let kernel = vec![0x5a; 5000];
        for (name, payload) in &packed(&kernel) {
            let file = zboot(name.as_bytes(), payload, payload.len());
            assert_eq!(compression(&file).expect("a name"), *name);
            assert!(is_zboot(&file));
            assert_eq!(expand(&file, 1 << 20).expect("a kernel"), kernel);
            assert!(
                expand(&file, 4999).is_err_and(|error| error.to_string().contains("more than"))
            );
        }
    }

    #[test]
    fn a_damaged_or_unknown_header_is_refused() {
        let refusal = |file: &[u8]| expand(file, 1 << 20).expect_err("refused").to_string();
        assert!(refusal(&zboot(b"lzo", &[0; 8], 8)).contains("compressed with `lzo`"));
        for name in [b"xzkern".as_slice(), b"lzma"] {
            assert!(refusal(&zboot(name, &[0; 8], 8)).contains("damaged"));
        }
        // A dictionary of 4 GiB.
        let huge = [0x5d, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1, 0, 0, 0];
        assert!(refusal(&zboot(b"lzma", &huge, huge.len())).contains("damaged"));
        assert!(refusal(&zboot(b"gzip", &[0; 8], 9)).contains("outside the file"));
        assert!(refusal(&zboot(b"gzip", &[0; 8], 8)).contains("damaged"));
        assert!(refusal(&zboot(b"zstd", &[0; 8], 8)).contains("damaged"));
        assert!(refusal(&zboot(b"gzip", &[], 0)[..12]).contains("cut short"));
    }

    proptest! {
        #[test]
        fn damage_is_refused_or_read_and_never_a_panic(
            kind in 0_usize..6,
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            end in any::<prop::sample::Index>(),
        ) {
            let kernel: Vec<u8> = (0..3000_u32).map(|it| ((it * it) >> 3) as u8).collect();
            let (name, payload) = &packed(&kernel)[kind];
            let mut file = zboot(name.as_bytes(), payload, payload.len());
            for (index, byte) in flips {
                let at = index.index(file.len());
                file[at] = byte;
            }
            file.truncate(end.index(file.len()) + 1);
            let _ = compression(&file);
            if let Ok(expanded) = expand(&file, 1 << 20) {
                prop_assert!(expanded.len() <= 1 << 20);
            }
        }
    }
}
