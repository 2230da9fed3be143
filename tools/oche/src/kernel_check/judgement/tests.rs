use super::{Judgement, Known, Verdict, judge};
use crate::kernel_check::config::KernelConfig;
use crate::kernel_check::device_tree::MacTree;
use crate::kernel_check::device_tree::tests::{AIR, MINI};
use crate::kernel_check::devices::DEVICES;
use crate::kernel_check::initrd::InitrdModules;
use crate::kernel_check::initrd::tests::archive;
use crate::kernel_check::rules::{Need, Since};

/// The options of the table that Debian's `/boot/config-6.12.118+deb13-arm64` sets.
pub(in crate::kernel_check) const DEBIAN: &str = include_str!("../fixtures/debian-6.12.config");
/// Those of Fedora's 6.17.7, `kernel-aarch64-fedora.config` (bazzite-org/kernel-bazzite, c0947ddb).
pub(in crate::kernel_check) const FEDORA: &str = include_str!("../fixtures/fedora-6.17.config");

/// Those of Fedora 44's 7.1.7, the same file (ClangBuiltLinux/rpms_kernel, 8d97aa964ea2).
const FEDORA_7_1: &str = include_str!("../fixtures/fedora-7.1.config");

const VERSION: &str = "6.17.7-300.fc43.aarch64";

fn config(text: &str) -> KernelConfig {
    KernelConfig::parse(text.as_bytes()).expect("a configuration")
}

fn known(config: Option<&KernelConfig>) -> Known<'_> {
    Known {
        release: Some((6, 17)),
        version: VERSION,
        page_bytes: 4096,
        is_big_endian: false,
        config,
        tree: None,
        initrd: None,
    }
}

fn verdict(judgement: &Judgement, name: &str) -> (Verdict, String) {
    let device = judgement.devices.iter().find(|device| device.name.starts_with(name));
    let device = device.unwrap_or_else(|| panic!("no {name}"));
    let details = if device.reasons.is_empty() {
        device.modules.join(", ")
    } else {
        device.reasons.join("; ")
    };
    (device.verdict, details)
}

#[test]
fn fedoras_kernel_is_usable_with_its_initrd() {
    let fedora = config(FEDORA);
    let judgement = judge(&known(Some(&fedora)));
    assert_eq!((judgement.is_usable, &judgement.reasons), (Some(true), &Vec::new()));
    let (ssd, modules) = verdict(&judgement, "internal SSD");
    assert_eq!(ssd, Verdict::Module);
    assert_eq!(modules, "nvme-apple, apple-sart, apple-rtkit, apple-mailbox");
    assert!(judgement.notes.iter().any(|it| it.contains("the initrd must have nvme-apple")));
    assert_eq!(verdict(&judgement, "interrupts").0, Verdict::BuiltIn);
    let usb = verdict(&judgement, "USB-C");
    let reason = "this Linux is too old for CONFIG_PHY_APPLE_ATC (since 7.0), \
                  CONFIG_USB_DWC3_APPLE (since 6.19)";
    assert_eq!(usb, (Verdict::Missing, reason.to_owned()));
    let keyboard = verdict(&judgement, "keyboard and");
    let reason = "no driver in mainline Linux up to 7.3: CONFIG_SPI_HID_APPLE_OF is the Asahi \
                  project's";
    assert_eq!(keyboard, (Verdict::Missing, reason.to_owned()));
}

#[test]
fn a_newer_fedora_drives_the_usb_c_ports_and_the_battery() {
    let fedora = config(FEDORA_7_1);
    let mut known = known(Some(&fedora));
    known.release = Some((7, 1));
    let judgement = judge(&known);
    for name in ["USB-C", "battery", "clock", "temperatures"] {
        assert_eq!(verdict(&judgement, name).0, Verdict::Module, "{name}");
    }
    assert_eq!(judgement.notes.len(), 1, "of the initrd alone: {:?}", judgement.notes);
}

#[test]
fn a_mac_without_a_keyboard_is_named() {
    let (old, new) = (config(FEDORA), config(FEDORA_7_1));
    let notes = |config, release, mac: Option<(&str, &str, [bool; 2])>| {
        let tree = mac.map(|(compatible, model, ports)| {
            let blob = crate::kernel_check::device_tree::tests::mac(compatible, model, ports);
            MacTree::parse(&blob).expect("a tree")
        });
        let mut known = known(Some(config));
        (known.release, known.tree) = (Some(release), tree.as_ref());
        judge(&known).notes.into_iter().filter(|it| it.contains("keyboard")).collect::<Vec<_>>()
    };
    for mac in [None, Some(AIR)] {
        let notes = notes(&old, (6, 17), mac);
        assert!(notes[0].starts_with("a MacBook has no keyboard"), "{notes:?}");
    }
    assert!(notes(&old, (6, 17), Some(MINI)).is_empty(), "it has USB-A");
    let imac = ("apple,j457|apple,t8103", "Apple iMac", [false, true]);
    assert!(notes(&old, (6, 17), Some(imac))[0].starts_with("no USB keyboard"));
    for mac in [None, Some(AIR), Some(MINI), Some(imac)] {
        assert!(notes(&new, (7, 1), mac).is_empty(), "{mac:?}");
    }
}

#[test]
fn a_patched_kernel_is_named() {
    let asahi = format!("{FEDORA}CONFIG_SPI_HID_APPLE_OF=m\nCONFIG_PHY_APPLE_ATC=m\n");
    let asahi = config(&asahi);
    let notes = judge(&known(Some(&asahi))).notes.join("; ");
    let words = "mainline Linux 6.17 has no CONFIG_PHY_APPLE_ATC, CONFIG_SPI_HID_APPLE_OF";
    assert!(notes.contains(words), "{notes}");
    let fedora = config(FEDORA);
    assert!(!judge(&known(Some(&fedora))).notes.join("; ").contains("patched"));
}

#[test]
fn debians_kernel_is_not_usable() {
    let debian = config(DEBIAN);
    let mut known = known(Some(&debian));
    known.release = Some((6, 12));
    let judgement = judge(&known);
    assert_eq!(judgement.is_usable, Some(false));
    assert!(judgement.reasons[0].contains("CONFIG_ARCH_APPLE"), "{:?}", judgement.reasons);
    assert!(judgement.reasons.iter().any(|it| it == "DARTs (IOMMUs): CONFIG_APPLE_DART is off"));
    let spi = verdict(&judgement, "keyboard and").1;
    assert!(spi.contains("too old for CONFIG_SPI_APPLE (since 6.13)"), "{spi}");
    assert_eq!(verdict(&judgement, "screen").0, Verdict::BuiltIn, "by FB_SIMPLE");
}

#[test]
fn each_needed_driver_alone_makes_a_kernel_unusable() {
    let needed = DEVICES.iter().filter(|device| device.need != Need::Use);
    let options = needed.flat_map(|device| device.options.iter().flat_map(|any| any.iter()));
    let mut count = 0;
    for option in options {
        let line = format!("CONFIG_{}=", option.name);
        let without: Vec<&str> = FEDORA.lines().filter(|it| !it.starts_with(&line)).collect();
        let without = config(&without.join("\n"));
        let judgement = judge(&known(Some(&without)));
        assert_eq!(judgement.is_usable, Some(false), "{}", option.name);
        assert!(judgement.reasons[0].contains(&format!("CONFIG_{} is off", option.name)));
        count += 1;
    }
    assert_eq!(count, 8);
}

#[test]
fn without_a_configuration_nothing_is_claimed() {
    let judgement = judge(&known(None));
    assert_eq!(judgement.is_usable, None);
    assert!(judgement.reasons[0].contains("--config"), "{:?}", judgement.reasons);
    assert_eq!(verdict(&judgement, "internal SSD").0, Verdict::Unknown);
    assert_eq!(verdict(&judgement, "USB-C").0, Verdict::Missing, "by the release alone");
    let mut newer = known(None);
    newer.release = Some((7, 9));
    let judgement = judge(&newer);
    assert_eq!(verdict(&judgement, "keyboard and").0, Verdict::Unknown);
    assert!(judgement.notes.iter().any(|note| note.contains("outside 6.1 to 7.3")));
}

#[test]
fn pages_and_byte_order_count_before_drivers() {
    let fedora = config(FEDORA);
    let with = |page_bytes, is_big_endian| {
        judge(&Known { page_bytes, is_big_endian, ..known(Some(&fedora)) })
    };
    assert_eq!(with(64 << 10, false).is_usable, Some(false));
    assert!(with(64 << 10, false).reasons[0].contains("64 KiB pages"));
    assert_eq!(with(4096, true).is_usable, Some(false));
    let pages_16k = with(16 << 10, false);
    assert_eq!(pages_16k.is_usable, Some(true));
    assert!(pages_16k.notes[0].contains("without Oche"));
    let unknown = judge(&Known { page_bytes: 64 << 10, ..known(None) });
    assert_eq!(unknown.is_usable, Some(false), "the header is enough");
}

#[test]
fn an_initrd_must_have_the_modules_of_this_kernel() {
    let fedora = config(FEDORA);
    let with = |names: &[&str]| {
        let names: Vec<String> =
            names.iter().map(|it| format!("usr/lib/modules/{VERSION}/kernel/{it}.ko.xz")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let initrd = InitrdModules::parse(&archive(&names)).expect("an initrd");
        judge(&Known { initrd: Some(&initrd), ..known(Some(&fedora)) })
    };
    let all = ["nvme-apple", "apple-sart", "apple-rtkit", "apple-mailbox"];
    let whole = with(&all);
    assert_eq!(whole.is_usable, Some(true));
    assert!(whole.notes.iter().all(|note| !note.contains("initrd")), "{:?}", whole.notes);
    let part = with(&all[..3]);
    assert_eq!(part.is_usable, Some(false));
    assert!(part.reasons[0].contains("the initrd lacks apple-mailbox"), "{:?}", part.reasons);
    let others = InitrdModules::parse(&archive(&["lib/modules/6.1/nvme-apple.ko"])).expect("one");
    let others = judge(&Known { initrd: Some(&others), ..known(Some(&fedora)) });
    assert!(others.reasons[0].contains("are for 6.1, not for 6.17.7"), "{:?}", others.reasons);
}

#[test]
fn a_tree_leaves_out_what_its_mac_has_not() {
    let fedora = config(FEDORA);
    let with = |(compatible, model, ports)| {
        let tree =
            MacTree::parse(&crate::kernel_check::device_tree::tests::mac(compatible, model, ports));
        judge(&Known { tree: Some(&tree.expect("a tree")), ..known(Some(&fedora)) })
    };
    let has = |judgement: &Judgement, name| {
        judgement.devices.iter().any(|device| device.name.starts_with(name))
    };
    let (air, mini) = (with(AIR), with(MINI));
    for name in ["keyboard and", "battery"] {
        assert!(has(&air, name) && !has(&mini, name), "{name}");
    }
    for name in ["Ethernet", "USB-A"] {
        assert!(!has(&air, name) && has(&mini, name), "{name}");
    }
    assert!(!has(&air, "Touch Bar"));
    let restart = verdict(&air, "restart");
    assert_eq!(restart.0, Verdict::Missing);
    assert!(restart.1.contains("no node for it (they are in every tree of an M1)"), "{restart:?}");
}

#[test]
fn the_table_names_an_option_once_a_device_and_gives_each_a_source() {
    for device in DEVICES {
        let mut names: Vec<_> = device.options.iter().flat_map(|any| any.iter()).collect();
        assert!(names.iter().all(|it| it.source.contains('/') || it.since == Since::Unmerged));
        let count = names.len();
        names.sort_by_key(|option| option.name);
        names.dedup_by_key(|option| option.name);
        assert_eq!(names.len(), count, "{}", device.name);
    }
}

#[test]
fn what_lies_between_two_known_releases_is_said_to_be_unknown() {
    let words = |present, absent| Since::Mainline { present, absent }.words();
    assert_eq!(words((6, 13), (6, 12)), "since 6.13");
    assert_eq!(words((7, 0), (6, 19)), "since 7.0");
    assert_eq!(words((7, 0), (6, 17)), "in 7.0, not in 6.17");
    assert_eq!(Since::Early.words(), "6.1 or earlier");
}
