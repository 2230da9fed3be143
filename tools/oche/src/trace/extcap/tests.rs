//! What Wireshark is answered. A capture of a guest that runs is tested by `cargo xtask test`.

use super::*;

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

#[test]
fn empty_options_are_as_good_as_none() {
    let given = words(&["oche", "--capture", "--kind", "", "--device", "nvme", "--iova=", ""]);
    assert_eq!(without_empty(given.into_iter()), words(&["oche", "--capture", "--device", "nvme"]));
}

#[test]
fn extcap_is_recognized_by_its_arguments() {
    assert!(is_asked_for(words(&["oche", "--extcap-interfaces"]).into_iter()));
    assert!(!is_asked_for(words(&["oche", "trace", "text", "--follow"]).into_iter()));
}

#[test]
fn each_guest_is_an_interface_whatever_its_name() {
    let guest = |process, name: &str| Guest { process, ram: "/x".into(), name: name.into() };
    let text = interfaces(&[guest(7, "qemu-virt"), guest(8, "a}{b\nc")]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[0].starts_with("extcap {version=") && lines[1].contains("{value=oche}"));
    assert_eq!(lines[2], "interface {value=oche-7}{display=Oche: qemu-virt, process 7}");
    assert_eq!(lines[3], "interface {value=oche-8}{display=Oche: a__b_c, process 8}");
}

#[test]
fn every_option_of_the_dialogue_is_one_of_the_program() {
    for (interface, count) in [(ANY, 7), ("oche-7", 6)] {
        let text = options(interface);
        assert_eq!(text.lines().count(), count);
        for (number, line) in text.lines().enumerate() {
            assert!(line.starts_with(&format!("arg {{number={number}}}")), "{line}");
            let call = line.split("{call=").nth(1).unwrap().split('}').next().unwrap();
            let value = match call {
                "--iova" => "0x1000",
                "--kind" => "map",
                "--stream" => "1",
                _ => "name",
            };
            let line = ["oche", "--extcap-interface", interface, "--capture", call, value];
            ExtcapArguments::try_parse_from(line).unwrap();
        }
    }
}

#[test]
fn a_reader_that_has_gone_is_noticed_without_a_write() {
    let (reader, writer) = io::pipe().unwrap();
    let pipe = File::from(std::os::fd::OwnedFd::from(writer));
    assert!(!has_reader_gone(&pipe));
    drop(reader);
    assert!(has_reader_gone(&pipe));
}
