//! Tests of the layout, against the reader that Oche itself uses.

use super::{append, flatten, options_text};
use oche_boot::header;
use oche_boot::payload::{self, ItemKind};
use oche_types::identity;

use crate::stamp::stamp;

fn oche() -> Vec<u8> {
    let mut image = vec![0; 8192];
    image[header::MAGIC_OFFSET..header::MAGIC_OFFSET + 4].copy_from_slice(&header::MAGIC);
    image
}

#[test]
fn what_was_packed_is_read_back_by_oches_own_reader() {
    let kernel = vec![1; 5000];
    let initrd = vec![2; 4096];
    let mut image = oche();
    append(
        &mut image,
        &[
            (ItemKind::Kernel, &kernel),
            (ItemKind::Initrd, &initrd),
            (ItemKind::Options, b"oche.pool=1M\n"),
        ],
    )
    .expect("packed");
    let container = &image[8192..];
    let found = payload::parse(container, container.len() as u64).expect("a payload");
    let bytes = |item: Option<payload::Item>| {
        let item = item.expect("an item");
        container[item.offset as usize..][..item.length as usize].to_vec()
    };
    assert_eq!(bytes(found.kernel), kernel);
    assert_eq!(bytes(found.initrd), initrd);
    assert_eq!(bytes(found.options), b"oche.pool=1M\n");
}

#[test]
fn the_header_holds_the_size_of_the_whole_file() {
    let mut image = oche();
    append(&mut image, &[(ItemKind::Kernel, &[1; 10])]).expect("packed");
    let stated = u64::from_le_bytes(image[0x10..0x18].try_into().expect("eight bytes"));
    assert_eq!(stated, image.len() as u64);
    // The header, the item, and the page for a native start.
    assert_eq!(image.len(), 8192 + 4096 + 4096 + 4096);
}

#[test]
fn an_empty_item_still_has_its_place() {
    let mut image = oche();
    append(&mut image, &[(ItemKind::Options, b""), (ItemKind::Kernel, &[1; 10])]).expect("packed");
    let container = &image[8192..];
    let found = payload::parse(container, container.len() as u64).expect("a payload");
    assert_eq!(found.options.map(|item| item.length), Some(0));
    assert_eq!(found.kernel.map(|item| container[item.offset as usize]), Some(1));
}

#[test]
fn a_file_that_is_no_elf_is_refused() {
    assert!(flatten(b"MZ").is_err());
    assert!(flatten(&[]).is_err());
}

/// A little-endian ELF file for arm64 with one segment at `address` and the symbol `__image_end` at
/// `end`.
fn elf(address: u64, content: &[u8], memory_bytes: u64, end: u64) -> Vec<u8> {
    let (header_bytes, program_bytes, section_bytes) = (64_u64, 56_u64, 64_u64);
    let content_offset = header_bytes + program_bytes;
    let symbols_offset = content_offset + content.len() as u64;
    let strings = b"\0__image_end\0";
    let strings_offset = symbols_offset + 48;
    let sections_offset = strings_offset + strings.len() as u64;
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let halves = |bytes: &mut Vec<u8>, values: &[u16]| {
        values.iter().for_each(|value| bytes.extend(value.to_le_bytes()))
    };
    let words = |bytes: &mut Vec<u8>, values: &[u32]| {
        values.iter().for_each(|value| bytes.extend(value.to_le_bytes()))
    };
    let longs = |bytes: &mut Vec<u8>, values: &[u64]| {
        values.iter().for_each(|value| bytes.extend(value.to_le_bytes()))
    };
    halves(&mut bytes, &[3, 183]);
    words(&mut bytes, &[1]);
    longs(&mut bytes, &[0, header_bytes, sections_offset]);
    words(&mut bytes, &[0]);
    halves(&mut bytes, &[64, 56, 1, 64, 3, 2]);
    words(&mut bytes, &[1, 5]);
    longs(
        &mut bytes,
        &[content_offset, address, address, content.len() as u64, memory_bytes, 4096],
    );
    bytes.extend(content);
    bytes.extend([0; 24]);
    words(&mut bytes, &[1]);
    halves(&mut bytes, &[0x10, 0xfff1]);
    longs(&mut bytes, &[end, 0]);
    bytes.extend(strings);
    let section =
        |bytes: &mut Vec<u8>, kind: u32, offset: u64, size: u64, link: u32, entry: u64| {
            words(bytes, &[0, kind]);
            longs(bytes, &[0, 0, offset, size]);
            words(bytes, &[link, 1]);
            longs(bytes, &[1, entry]);
        };
    bytes.extend(vec![0; section_bytes as usize]);
    section(&mut bytes, 2, symbols_offset, 48, 2, 24);
    section(&mut bytes, 3, strings_offset, strings.len() as u64, 0, 0);
    bytes
}

#[test]
fn an_image_reaches_to_its_end_symbol_with_zeros_behind_its_bytes() {
    let mut content = oche();
    content[100] = 7;
    let image = flatten(&elf(0x4000, &content, 0x3000, 0x4000 + 0x5000)).expect("an image");
    assert_eq!(image.len(), 0x5000);
    assert_eq!(&image[..content.len()], content);
    assert!(image[content.len()..].iter().all(|byte| *byte == 0));
}

#[test]
fn an_image_whose_end_symbol_is_wrong_is_refused() {
    let refusal = |end| format!("{:#}", flatten(&elf(0x4000, &oche(), 0x2000, end)).unwrap_err());
    assert!(refusal(0x4000 + 0x2800).contains("4 KiB border"));
    assert!(refusal(0x4000 + 0x1000).contains("behind __image_end"));
    assert!(refusal(0x3000).contains("misplaced"));
    assert!(refusal(u64::MAX).contains("misplaced"));
}

#[test]
fn an_elf_file_without_an_image_header_is_refused() {
    let error = flatten(&elf(0, &[0; 4096], 4096, 4096)).unwrap_err().to_string();
    assert!(error.contains("Image header"), "{error}");
}

#[test]
fn a_stamp_names_the_commit_and_every_byte_of_the_image() {
    let mut content = oche();
    content[4096..][..identity::RECORD_BYTES].copy_from_slice(&identity::record("m1", "9.8.7"));
    let stamped = |content: &[u8], commit: &str| {
        let mut file = elf(0x4000, content, 0x3000, 0x4000 + 0x5000);
        stamp(&mut file, commit).expect("stamped");
        let image = flatten(&file).expect("an image");
        let found = identity::find(&image).expect("a record");
        assert_eq!((found.board, found.version, found.commit), ("m1", "9.8.7", commit));
        // A second stamp begins from the same bytes.
        stamp(&mut file, commit).expect("stamped again");
        assert_eq!(flatten(&file).expect("an image"), image);
        found.build.expect("a build id")
    };
    let first = stamped(&content, "c0ffee");
    assert_ne!(stamped(&content, "c0ffee-dirty"), first);
    content[8191] ^= 1;
    assert_ne!(stamped(&content, "c0ffee"), first);
}

#[test]
fn a_file_without_one_record_is_not_stamped() {
    let mut content = oche();
    let mut plain = elf(0, &content, 0x3000, 0x3000);
    let before = plain.clone();
    stamp(&mut plain, "c0ffee").expect("a guest of the tests has no record");
    assert_eq!(plain, before);
    for at in [4096, 5000] {
        content[at..][..identity::RECORD_BYTES].copy_from_slice(&identity::record("m1", "1"));
    }
    let error = stamp(&mut elf(0, &content, 0x3000, 0x3000), "c0ffee").unwrap_err().to_string();
    assert!(error.contains("two records"), "{error}");
}

#[test]
fn options_are_lines_and_foreign_names_are_refused() {
    let option = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    assert_eq!(options_text(&option("oche.pool", "256M")).expect("text"), "oche.pool=256M\n");
    assert_eq!(
        options_text(&option("oche.bootargs", "a=b c")).expect("text"),
        "oche.bootargs=a=b c\n"
    );
    assert!(
        options_text(&option("pool", "256M")).unwrap_err().to_string().contains("oche.NAME=VALUE")
    );
    assert!(options_text(&option("oche.bootargs", "a\nb")).is_err());
    let refusal =
        |name: &str, value: &str| options_text(&option(name, value)).unwrap_err().to_string();
    assert!(refusal("oche.pool", "lots").contains("Oche does not take this oche.pool: `lots`"));
    assert!(refusal("oche.coherence", "api").contains("not an option any more: oche.coherence"));
    assert!(refusal("oche.iommu-map", "8:0:16").contains("oche.iommu-map: `8:0:16`"));
    assert!(refusal("oche.no-such-thing", "1").contains("oche.no-such-thing"));
}
