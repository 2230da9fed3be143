//! Tests of the guest's names.

use super::*;

fn some() -> Names {
    let function = |address, name: &str, module: Option<&str>| Function {
        address,
        name: name.into(),
        module: module.map(Into::into),
    };
    Names {
        kernel: "Linux version 6.12.118 (someone@somewhere) #1 SMP".into(),
        missing: vec!["names of modules: CONFIG_DEBUG_INFO_BTF is off".into()],
        devices: vec![
            DeviceName { name: "0000:00:01.0".into(), driver: Some("nvme".into()) },
            DeviceName { name: "0000:00:02.0".into(), driver: None },
        ],
        functions: vec![
            function(0xffff_8000_0800_0000, "_stext", None),
            function(0xffff_8000_7a00_0100, "nvme_map_data", Some("nvme")),
        ],
    }
}

#[test]
fn names_survive_their_payload_and_its_padding() {
    let mut payload = some().to_payload();
    assert_eq!(Names::from_payload(&payload).unwrap(), some());
    payload.resize(payload.len().next_multiple_of(8), 0);
    assert_eq!(Names::from_payload(&payload).unwrap(), some());
}

#[test]
fn damaged_payloads_are_refused_with_a_reason() {
    let payload = some().to_payload();
    for bytes in [0, 7, 15, TEXT_OFFSET, payload.len() - 1] {
        assert!(Names::from_payload(&payload[..bytes]).is_err(), "{bytes} bytes");
    }
    let mut longer = payload.clone();
    longer[0] ^= 1;
    assert!(Names::from_payload(&longer).unwrap_err().to_string().contains("instead of"));
    let mut huge = payload;
    huge[7] = 0x7f;
    assert!(Names::from_payload(&huge).unwrap_err().to_string().contains("at most"));
}

#[test]
fn a_guest_cannot_put_a_line_or_a_terminals_orders_into_its_names() {
    let evil = "a b\nffff c\x1b[2J";
    let names = Names {
        kernel: evil.into(),
        functions: vec![Function { address: 1, name: evil.into(), module: Some(evil.into()) }],
        devices: vec![DeviceName { name: evil.into(), driver: Some(evil.into()) }],
        missing: vec![evil.into()],
    };
    let read = Names::from_payload(&names.to_payload()).unwrap();
    assert_eq!((read.functions.len(), read.devices.len(), read.missing.len()), (1, 1, 1));
    assert_eq!(read.functions[0].name, "a_b_ffff_c_[2J");
    assert!(!read.kernel.contains(char::is_control));
}

#[test]
fn code_alone_is_taken_from_kallsyms() {
    let text = "ffff800008000000 T _text\nffff800008000200 D data\nffff800008000080 t $x\n\
                ffffba4b2d700000 t apple_dart_probe\t[apple_dart]\nnothing\n";
    let names: Vec<_> = Names::from_kallsyms(text)
        .functions
        .into_iter()
        .map(|function| (function.name, function.module))
        .collect();
    let module = ("apple_dart_probe".to_owned(), Some("apple_dart".to_owned()));
    assert_eq!(names, [("_text".to_owned(), None), module]);
}

#[test]
fn the_devices_alone_are_those_of_the_whole_text() {
    let mut names = some();
    let devices = Names::devices_in(&names.to_payload());
    assert_eq!(devices, Names { functions: Vec::new(), ..some() });
    assert_eq!(devices.bound().collect::<Vec<_>>(), [("0000:00:01.0", "nvme")]);
    names.devices.clear();
    assert_eq!(Names::devices_in(&names.to_payload()).devices, []);
    let payload = some().to_payload();
    for at in 0..payload.len() {
        let mut damaged = payload.clone();
        damaged[at] ^= 0x55;
        assert!(Names::devices_in(&damaged).devices.len() <= 2, "at {at}");
        assert!(Names::devices_in(&payload[..at]).devices.len() <= 2, "up to {at}");
    }
}
