use std::fs;
use std::io::Write;
use std::path::Path;

use proptest::prelude::*;

use super::{ConfigSource, KernelConfig, Setting, find, release};

/// The lines that matter of Debian's `/boot/config-6.12.118+deb13-arm64`.
const DEBIAN: &str = include_str!("../fixtures/debian-6.12.config");

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(text).expect("packed");
    packed.finish().expect("packed")
}

fn refusal(text: &[u8]) -> String {
    format!("{:#}", KernelConfig::parse(text).expect_err("refused"))
}

#[test]
fn options_of_a_real_configuration_are_read() {
    let config = KernelConfig::parse(DEBIAN.as_bytes()).expect("a configuration");
    assert_eq!(config.release, Some((6, 12)));
    assert_eq!(config.page_bytes(), Some(4096));
    assert_eq!(config.get("FB_SIMPLE"), Some(Setting::BuiltIn));
    assert_eq!(config.get("TIGON3"), Some(Setting::Module));
    assert_eq!(config.get("ARCH_APPLE"), None, "is not set");
    assert_eq!(config.get("NVME_APPLE"), None, "hidden by ARCH_APPLE");
    assert_eq!(config.get("CC_VERSION_TEXT"), Some(Setting::Other));
}

#[test]
fn what_is_no_configuration_of_arm64_is_refused() {
    assert!(refusal(b"").contains("no kernel configuration"));
    assert!(
        refusal(b"\xff\xfe\0CONFIG\nCONFIG_\n# CONFIG_PM is not set\n").contains("CONFIG_ARM64=y")
    );
    let x86 = b"# Linux/x86 6.12.1 Kernel Configuration\nCONFIG_X86=y\n";
    assert!(refusal(x86).contains("for x86, not for arm64"), "{}", refusal(x86));
    assert!(refusal(b"CONFIG_ARM=y\n").contains("another architecture"));
}

#[test]
fn a_million_lines_are_read_and_the_last_of_a_name_counts() {
    let mut text = String::from("CONFIG_ARM64=y\n");
    for number in 0..1_000_000 {
        text.push_str(&format!("CONFIG_OPTION_{}=m\n", number % 5000));
    }
    text.push_str("CONFIG_OPTION_7=y\r\n");
    let config = KernelConfig::parse(text.as_bytes()).expect("a configuration");
    assert_eq!(config.get("OPTION_7"), Some(Setting::BuiltIn));
    assert_eq!(config.get("OPTION_4999"), Some(Setting::Module));
}

#[test]
fn releases_are_the_first_two_numbers_of_a_version() {
    assert_eq!(release("6.12.118+deb13-arm64"), Some((6, 12)));
    assert_eq!(release("7.0-rc3"), Some((7, 0)));
    for other in ["", "6", "six.1", "6.x", "99999999999.1"] {
        assert_eq!(release(other), None, "{other}");
    }
}

#[test]
fn named_comes_before_embedded_and_embedded_before_beside() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let version = "6.12.118+deb13-arm64";
    fs::write(at("named"), gzip(b"CONFIG_ARM64=y\nCONFIG_NAMED=y\n")).expect("written");
    fs::write(at(&format!("config-{version}")), DEBIAN).expect("written");
    let mut image = vec![0; 100];
    image.extend(b"IKCFG_ST");
    image.extend(gzip(b"CONFIG_ARM64=y\nCONFIG_EMBEDDED=y\n"));
    image.extend(b"IKCFG_ED");
    let file = at("vmlinuz");
    let find = |named: Option<&Path>, image: &[u8], version| {
        find(named, image, &file, version).expect("no error")
    };
    let (config, source) = find(Some(&at("named")), &image, Some(version)).expect("found");
    assert_eq!(
        (config.get("NAMED"), source),
        (Some(Setting::BuiltIn), ConfigSource::Named(at("named")))
    );
    let (config, source) = find(None, &image, Some(version)).expect("found");
    assert_eq!((config.get("EMBEDDED"), source), (Some(Setting::BuiltIn), ConfigSource::Kernel));
    let (_, source) = find(None, &[0; 100], Some(version)).expect("found");
    assert_eq!(source, ConfigSource::Beside(at(&format!("config-{version}"))));
    for absent in [None, Some("6.12"), Some("../x"), Some("")] {
        assert_eq!(find(None, &[0; 100], absent), None, "{absent:?}");
    }
}

#[test]
fn a_folder_of_modules_has_the_configuration_by_its_plain_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let modules = folder.path().join("7.2.13");
    fs::create_dir(&modules).expect("made");
    fs::write(modules.join("config"), DEBIAN).expect("written");
    let found =
        |version| find(None, &[], &modules.join("vmlinuz"), Some(version)).expect("no error");
    assert!(found("7.2.13").is_some());
    assert_eq!(found("7.2.14"), None);
}

#[test]
fn a_kernel_in_boot_has_it_beside_its_modules_and_links_are_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let [boot, modules] = ["boot", "usr/lib/modules/7.2.13"].map(|below| folder.path().join(below));
    for made in [&boot, &modules] {
        fs::create_dir_all(made).expect("made");
    }
    fs::write(boot.join("vmlinuz-7.2.13"), "").expect("written");
    fs::write(modules.join("config"), DEBIAN).expect("written");
    let link = folder.path().join("vmlinuz");
    std::os::unix::fs::symlink("boot/vmlinuz-7.2.13", &link).expect("linked");
    for file in [boot.join("vmlinuz-7.2.13"), link] {
        let found = |version| find(None, &[], &file, Some(version)).expect("no error");
        let (_, source) = found("7.2.13").unwrap_or_else(|| panic!("{}", file.display()));
        assert!(matches!(source, ConfigSource::Beside(_)));
        assert_eq!(found("7.2.14"), None);
    }
}

#[test]
fn damaged_and_missing_configurations_are_errors_that_name_them() {
    let error = |named: &Path, image: &[u8]| {
        let named = (!named.as_os_str().is_empty()).then_some(named);
        format!("{:#}", find(named, image, Path::new("vmlinuz"), None).expect_err("refused"))
    };
    assert!(error(Path::new("/no/such"), &[]).contains("cannot read the configuration /no/such"));
    let none = Path::new("");
    assert!(error(none, b"..IKCFG_ST\x1f\x8b\x08").contains("inside the kernel"));
    let mut image = b"IKCFG_ST".to_vec();
    image.extend(gzip(b"nothing"));
    assert!(error(none, &image).contains("no kernel configuration"));
    let folder = tempfile::tempdir().expect("a folder");
    let packed = folder.path().join("config.gz");
    let whole = gzip(DEBIAN.as_bytes());
    fs::write(&packed, &whole[..whole.len() / 2]).expect("written");
    assert!(error(&packed, &[]).contains("damaged"), "{}", error(&packed, &[]));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_read_and_never_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        lines in prop::collection::vec("(CONFIG_|# Linux/|# CONFIG_)?[ -~]{0,30}", 0..20),
    ) {
        let _ = KernelConfig::parse(&bytes);
        let text = format!("CONFIG_ARM64=y\n{}", lines.join("\n"));
        prop_assert!(KernelConfig::parse(text.as_bytes()).is_ok() || text.contains("CONFIG_ARM64="));
        let _ = find(None, &[b"IKCFG_ST\x1f\x8b".as_slice(), &bytes].concat(), Path::new(""), None);
    }
}
