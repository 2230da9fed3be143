use std::io::Write;

use cpio::newc;
use proptest::prelude::*;

use super::InitrdModules;

/// An archive with files of these names.
pub(in crate::kernel_check) fn archive(names: &[&str]) -> Vec<u8> {
    let mut archive = Vec::new();
    for name in names {
        let mut writer = newc::Builder::new(name).mode(0o100_644).write(&mut archive, 3);
        writer.write_all(b"abc").expect("written");
        writer.finish().expect("written");
    }
    newc::trailer(&mut archive).expect("written");
    archive
}

const NVME: &str =
    "usr/lib/modules/6.17.7-300.fc43.aarch64/kernel/drivers/nvme/host/nvme-apple.ko.xz";
const SART: &str = "lib/modules/6.17.7-300.fc43.aarch64/kernel/drivers/soc/apple/apple-sart.ko";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).expect("packed");
    packed.finish().expect("packed")
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::default();
    let mut packed = lzma_rust2::XzWriter::new(Vec::new(), options).expect("a writer");
    packed.write_all(bytes).expect("packed");
    packed.finish().expect("packed")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

fn modules(bytes: &[u8]) -> InitrdModules {
    InitrdModules::parse(bytes).expect("an initrd")
}

#[test]
fn modules_are_found_in_every_compression() {
    let plain = archive(&["init", NVME, SART]);
    for initrd in [plain.clone(), gzip(&plain), xz(&plain), zstd(&plain)] {
        let found = modules(&initrd);
        assert!(found.has("nvme-apple") && found.has("nvme_apple") && found.has("apple-sart"));
        assert!(!found.has("apple-rtkit") && !found.has("init"));
        assert_eq!(found.is_for_others_than("6.17.7-300.fc43.aarch64"), None);
        let others = found.is_for_others_than("6.12");
        assert_eq!(others.as_deref(), Some("6.17.7-300.fc43.aarch64"));
    }
}

#[test]
fn archives_that_follow_each_other_are_all_read() {
    let mut initrd = archive(&["kernel/early"]);
    initrd.extend([0; 512]);
    initrd.extend(zstd(&[archive(&[NVME]), vec![0; 8], archive(&["etc/fstab"])].concat()));
    initrd.extend(gzip(&archive(&[SART])));
    initrd.extend([0; 4]);
    let found = modules(&initrd);
    assert!(found.has("nvme-apple") && found.has("apple-sart"));
}

#[test]
fn only_modules_count() {
    let found = modules(&archive(&["nvme-apple.ko", "lib/modules/6.1/nvme-apple.ko.txt"]));
    assert!(!found.has("nvme-apple"));
    assert_eq!(found.is_for_others_than("7.2"), None, "it has no modules at all");
}

#[test]
fn damaged_and_foreign_files_are_refused() {
    let refusal = |bytes: &[u8]| format!("{:#}", InitrdModules::parse(bytes).expect_err("refused"));
    let plain = archive(&[NVME]);
    assert!(refusal(&plain[..plain.len() - 8]).contains("build it again"));
    assert!(refusal(&gzip(&plain)[..60]).contains("build it again"));
    assert!(refusal(&xz(&plain)[..40]).contains("build it again"));
    assert!(refusal(&[&zstd(&plain)[..8], &[0xff; 8]].concat()).contains("build it again"));
    assert!(refusal(&gzip(&gzip(&plain))).contains("no cpio archive inside"));
    assert!(refusal(b"").contains("no archive"));
    assert!(refusal(b"#!/bin/sh").contains("no initrd"));
    assert!(refusal(&[0x02, 0x21, 0x4c, 0x18, 0]).contains("lz4 -dc"));
    // A name of 4 GiB.
    let mut huge = plain.clone();
    huge[94..102].copy_from_slice(b"FFFFFFFF");
    assert!(refusal(&huge).contains("build it again"));
}

proptest! {
    #[test]
    fn damage_is_refused_or_read_and_never_a_panic(
        kind in 0_usize..4,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        end in any::<prop::sample::Index>(),
    ) {
        let plain = archive(&["init", NVME, SART]);
        let packings = [plain.clone(), gzip(&plain), xz(&plain), zstd(&plain)];
        let mut bytes = packings[kind].clone();
        for (index, byte) in flips {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(end.index(bytes.len()) + 1);
        if let Err(error) = InitrdModules::parse(&bytes) {
            let words = format!("{error:#}");
                prop_assert!(!words.contains('\n'));
        }
    }
}
