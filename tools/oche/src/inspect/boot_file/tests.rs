use std::io::Write;

use dtoolkit::model::{DeviceTree, DeviceTreeProperty};
use flate2::Compression as Level;
use flate2::write::GzEncoder;
use oche_boot::header;
use oche_boot::payload::ItemKind;
use oche_types::identity;

use super::file::{SECTION_ALIGNMENT, STACK_END};
use super::payload::check_xz;
use super::*;
use crate::pack::append;

/// m1n1 without its code, as long as two of its sections.
fn m1n1() -> Vec<u8> {
    let mut file = vec![0; 2 * SECTION_ALIGNMENT];
    // Not where payloads begin: not at a section's end.
    file[0x100..0x108].copy_from_slice(STACK_END);
    file[0x200..0x212].copy_from_slice(b"##m1n1_ver##v1.4.2");
    let end = file.len();
    file[end - 8..].copy_from_slice(STACK_END);
    file
}

fn tree(mac: &str) -> Vec<u8> {
    let mut tree = DeviceTree::new();
    let compatible = format!("apple,{mac}\0apple,t8103\0apple,arm-platform");
    tree.root.add_property(DeviceTreeProperty::new_unchecked("compatible", compatible.as_str()));
    tree.root.add_property(DeviceTreeProperty::new_unchecked("model", "A Mac"));
    tree.to_dtb()
}

fn kernel(bytes: usize) -> Vec<u8> {
    let mut kernel = vec![0; bytes];
    kernel[header::IMAGE_SIZE..][..8].copy_from_slice(&0x1_0000_u64.to_le_bytes());
    kernel[header::FLAGS] = 0b1010;
    kernel[header::MAGIC_OFFSET..][..4].copy_from_slice(&header::MAGIC);
    kernel
}

fn oche() -> Vec<u8> {
    let mut image = vec![0; 8192];
    image[header::MAGIC_OFFSET..][..4].copy_from_slice(&header::MAGIC);
    image[4096..][..identity::RECORD_BYTES].copy_from_slice(&identity::record("m1", "9.8.7"));
    append(&mut image, &[(ItemKind::Kernel, &kernel(8192))]).expect("packed");
    image
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// "m1n1" and these payloads.
fn file(payloads: &[&[u8]]) -> Vec<u8> {
    let mut file = m1n1();
    payloads.iter().for_each(|payload| file.extend_from_slice(payload));
    file
}

fn read(payloads: &[&[u8]]) -> BootFile {
    BootFile::read(&file(payloads)).expect("it is read").expect("a boot file")
}

fn warns(taken: &Taken, what: &str) -> bool {
    taken.warnings.iter().any(|warning| warning.contains(what))
}

#[test]
fn a_usual_file_is_read_to_its_end() {
    let logo = [b"m1n1_logo_256128".as_slice(), &[0xff; 4 * (256 * 256 + 128 * 128)]].concat();
    let oche = oche();
    let found = read(&[
        &logo,
        &tree("j274"),
        &tree("j313"),
        &gzip(&oche),
        b"chosen.oche.pool=64M\ndisplay=auto\n",
    ]);
    assert_eq!(found.version.as_deref(), Some("v1.4.2"));
    assert_eq!(found.m1n1_bytes, 2 * SECTION_ALIGNMENT as u64);
    assert_eq!(found.end, End::EndOfFile);
    let (_, kernel) = found.kernel().expect("a kernel");
    assert_eq!(kernel.image, oche, "byte for byte");
    assert_eq!(kernel.oche.as_ref().map(|oche| oche.version.as_str()), Some("9.8.7"));
    let taken = found.taken(None);
    assert_eq!(taken.errors, [""; 0]);
    assert_eq!(taken.warnings, [""; 0]);
    let macs: Vec<&str> = taken.trees.iter().map(|(mac, _)| mac.as_str()).collect();
    assert_eq!(macs, ["apple,j274", "apple,j313"]);
    assert_eq!(taken.chosen, [("oche.pool".to_owned(), "64M".to_owned())]);
    let text = format!("{found}{taken}");
    for line in
        ["m1n1     v1.4.2, 32 KiB", "apple,j313, A Mac", "oche     9.8.7 (not stamped) for m1"]
    {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn the_last_kernel_and_the_last_tree_of_a_mac_count() {
    let found = read(&[&tree("j313"), &gzip(&kernel(4096)), &tree("j313"), &gzip(&oche())]);
    let (kernel_at, kernel) = found.kernel().expect("a kernel");
    assert_eq!(kernel_at, found.payloads[3].offset);
    assert!(kernel.oche.is_some());
    let taken = found.taken(Some("J313"));
    assert_eq!(taken.trees, [("apple,j313".to_owned(), found.payloads[2].offset)]);
    assert!(warns(&taken, "several device trees"));
    assert!(found.taken(Some("j456")).errors[0].contains("no device tree for apple,j456"));
}

#[test]
fn nothing_behind_a_kernel_without_compression_is_read() {
    let found = read(&[&tree("j313"), &oche(), b"chosen.oche.pool=64M\n"]);
    let offset = found.payloads[1].offset;
    assert_eq!(found.end, End::UncompressedKernel { offset, bytes_behind: 21 });
    let taken = found.taken(None);
    assert!(warns(&taken, "is not compressed") && taken.errors.is_empty(), "{taken:?}");
    assert!(taken.chosen.is_empty());
    assert!(found.kernel().is_some_and(|(_, kernel)| kernel.oche.is_some()));
}

#[test]
fn xz_is_expanded_and_what_follows_it_is_read() {
    let mut packed = Vec::new();
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut writer = lzma_rust2::XzWriter::new(&mut packed, options).expect("a writer");
    writer.write_all(&oche()).expect("memory");
    writer.finish().expect("memory");
    let found = read(&[&packed, &tree("j313"), &[0; 8]]);
    assert_eq!(found.payloads[0].compression, Some(Compression::Xz));
    assert_eq!(found.payloads[0].bytes, Some(packed.len() as u64));
    let offset = found.payloads[1].offset + tree("j313").len() as u64;
    assert_eq!(found.end, End::EndMark { offset });
    assert_eq!(found.taken(None).errors, [""; 0]);
}

#[test]
fn xz_that_m1n1_refuses_is_an_error() {
    let mut packed = Vec::new();
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut writer = lzma_rust2::XzWriter::new(&mut packed, options).expect("a writer");
    writer.write_all(&oche()).expect("memory");
    writer.finish().expect("memory");
    assert!(check_xz(&packed).is_ok());
    // A block header with sizes, as several threads write it; and an index of two blocks.
    let footer = packed.len() - 12;
    let word = packed[footer + 4..footer + 8].try_into().expect("four bytes");
    let index = footer - (u32::from_le_bytes(word) as usize + 1) * 4;
    for (at, value) in [(12, 4), (13, 0xc0), (14, 3), (index + 1, 2)] {
        let mut other = packed.clone();
        other[at] = value;
        assert!(check_xz(&other).is_err(), "{at}");
    }
    for length in 0..packed.len() {
        let _ = check_xz(&packed[..length]);
    }
}

#[test]
fn a_terminal_carries_nothing_out() {
    let found = read(&[b"chosen.a=\x1b[2J\r\n", &gzip(&[tree("j313"), vec![0]].concat())]);
    let taken = found.taken(None);
    assert!(taken.errors[0].contains("a device tree of"), "{taken:?}");
    let text = format!("{found}{taken}");
    assert!(text.chars().all(|letter| letter == '\n' || !letter.is_control()), "{text:?}");
}

#[test]
fn an_initramfs_and_a_signature_have_their_lengths() {
    let initramfs = [b"m1n1_initramfs".as_slice(), &5_u32.to_le_bytes(), b"07070"].concat();
    let signature = [b"m1n1_sig".as_slice(), &16_u32.to_le_bytes(), &[7; 4]].concat();
    let sep = [&[0x30, 1, 2, 3, 4, 0x16, 0x04][..], b"IMG4"].concat();
    let found = read(&[&signature, &initramfs, &sep]);
    assert!(matches!(found.payloads[0].content, Content::Signature));
    assert!(matches!(found.payloads[1].content, Content::Initramfs { bytes: 5 }));
    assert!(matches!(found.end, End::EndMark { .. }));
    assert_eq!(found.taken(None).initramfs, Some(found.payloads[1].offset));
}

#[test]
fn variables_have_limits() {
    let known = read(&[b"tso=1\nfoo=bar\n# text\n"]);
    assert_eq!(known.payloads.len(), 2);
    assert!(matches!(known.end, End::Unknown { .. }));
    assert!(warns(&known.taken(None), "knows no variable foo"));
    let name = |bytes: usize| [vec![b'n'; bytes], b"=v\n".to_vec()].concat();
    let value = |bytes: usize| [b"n=".to_vec(), vec![b'v'; bytes], b"\n".to_vec()].concat();
    for (line, count) in [(name(64), 1), (name(65), 0), (value(1024), 1), (value(1025), 0)] {
        assert_eq!(read(&[&line]).payloads.len(), count, "{}", line.len());
    }
    let lines: String = (0..17).map(|number| format!("chosen.a{number}=1\n")).collect();
    let taken = read(&[lines.as_bytes()]).taken(None);
    assert_eq!(taken.chosen.len(), 16);
    assert!(warns(&taken, "ignores chosen.a16") && warns(&taken, "first stage"), "{taken:?}");
}

#[test]
fn a_wrong_option_of_oche_is_named() {
    let found = read(&[&tree("j313"), &gzip(&oche()), b"chosen.oche.pool=much\nchosen.b=c\n"]);
    let taken = found.taken(None);
    assert!(warns(&taken, "Oche ignores oche.pool"), "{taken:?}");
    assert_eq!(taken.warnings.len(), 1);
}

#[test]
fn what_stops_m1n1_is_an_error() {
    let first = |payloads: &[&[u8]]| read(payloads).taken(None).errors[0].clone();
    assert!(first(&[&tree("j313")]).contains("no kernel"));
    assert!(first(&[&gzip(&oche())]).contains("no device tree"));
    let large = gzip(&kernel(0x2_0000));
    assert!(first(&[&tree("j313"), &large]).contains("its header states 65536"));
    let packed = gzip(&oche());
    let cut = &packed[..packed.len() - 9];
    assert!(first(&[cut]).contains("damaged"));
    let mut damaged = oche();
    damaged.truncate(8192 + 20);
    assert!(first(&[&tree("j313"), &gzip(&damaged)]).contains("it is damaged"));
    assert!(first(&[b"070701"]).contains("only if it is compressed"));
}

#[test]
fn a_file_without_m1n1_is_none() {
    assert!(BootFile::read(&oche()).expect("no error").is_none());
    assert!(BootFile::read(&[]).expect("no error").is_none());
    let cut = &m1n1()[..SECTION_ALIGNMENT + 5];
    assert!(BootFile::read(cut).is_err());
}

#[test]
fn no_damage_makes_it_panic() {
    let whole = file(&[&tree("j313"), &gzip(&oche()), b"chosen.oche.pool=64M\n"]);
    let start = 2 * SECTION_ALIGNMENT;
    for at in start..whole.len() {
        for value in [0, 0xff, whole[at] ^ 1] {
            let mut damaged = whole.clone();
            damaged[at] = value;
            if let Ok(Some(found)) = BootFile::read(&damaged) {
                let _ = format!("{found}{}", found.taken(None));
            }
        }
        if let Ok(Some(found)) = BootFile::read(&whole[..at]) {
            let _ = found.taken(Some("j313"));
        }
    }
}

#[test]
fn what_is_printed_as_json_is_as_its_schema_says() {
    let (first, packed) = (tree("j313"), oche());
    let payloads: [&[u8]; 4] = [&first, &gzip(&packed), b"chosen.x=y\n", &[0; 4]];
    let boot_file = BootFile::read(&file(&payloads)).expect("read").expect("a boot file");
    let value = serde_json::json!({ "boot_file": boot_file, "taken": boot_file.taken(None) });
    crate::schema::tests::check("inspect-boot-file", &value);
    assert!(value["boot_file"]["payloads"].as_array().is_some_and(|all| all.len() >= 3));
}
