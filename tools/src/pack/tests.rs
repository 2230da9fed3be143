//! Tests of the layout, against the reader that Oche itself uses.

use super::{append, flatten, options_text};
use oche_boot::header;
use oche_boot::payload::{self, Kind};

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
        &[(Kind::Kernel, &kernel), (Kind::Initrd, &initrd), (Kind::Options, b"oche.pool=1M\n")],
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
fn the_header_says_the_size_of_the_whole_file() {
    let mut image = oche();
    append(&mut image, &[(Kind::Kernel, &[1; 10])]).expect("packed");
    let said = u64::from_le_bytes(image[0x10..0x18].try_into().expect("eight bytes"));
    assert_eq!(said, image.len() as u64);
    assert_eq!(image.len(), 8192 + 4096 + 4096);
}

#[test]
fn an_empty_item_still_has_its_place() {
    let mut image = oche();
    append(&mut image, &[(Kind::Options, b""), (Kind::Kernel, &[1; 10])]).expect("packed");
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

#[test]
fn options_are_lines_and_foreign_names_are_refused() {
    let option = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    assert_eq!(options_text(&option("oche.pool", "256M")).expect("text"), "oche.pool=256M\n");
    assert_eq!(options_text(&option("oche.bootargs", "a=b c")).expect("text"), "oche.bootargs=a=b c\n");
    assert!(options_text(&option("pool", "256M")).unwrap_err().to_string().contains("oche.NAME=VALUE"));
    assert!(options_text(&option("oche.bootargs", "a\nb")).is_err());
}
