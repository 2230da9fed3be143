//! `oche check-kernel` as it is started: exit codes, and what goes to which output.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

const FEDORA: &str = include_str!("../src/kernel_check/fixtures/fedora-6.17.config");
const DEBIAN: &str = include_str!("../src/kernel_check/fixtures/debian-6.12.config");
const LINUX_6_17: &str = "Linux version 6.17.7-300.fc43.aarch64 (x@y) #1 SMP\n";

struct Folder(TempDir);

/// What a command printed and its exit code.
struct Ended {
    out: String,
    error: String,
    code: Option<i32>,
}

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.at(name), bytes).expect("written");
    }

    /// Writes an arm64 Image with these header flags and this text.
    fn kernel(&self, name: &str, flags: u8, banner: &str) {
        let mut image = vec![0; 8192];
        image[16..24].copy_from_slice(&0x1_0000_u64.to_le_bytes());
        image[24] = flags;
        image[56..60].copy_from_slice(b"ARM\x64");
        image[700..700 + banner.len()].copy_from_slice(banner.as_bytes());
        self.write(name, image);
    }

    fn check(&self, arguments: &[&str]) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oche"));
        command.arg("check-kernel").args(arguments).current_dir(self.0.path());
        let output = command.output().expect("it starts");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Ended { out: text(output.stdout), error: text(output.stderr), code: output.status.code() }
    }

    fn refused(&self, arguments: &[&str], words: &str) {
        let ended = self.check(arguments);
        assert_eq!(ended.code, Some(2), "{}{}", ended.out, ended.error);
        assert_eq!(ended.error.lines().count(), 1, "{}", ended.error);
        assert!(ended.error.contains(words), "{}", ended.error);
    }
}

#[test]
fn a_usable_kernel_ends_with_0_and_its_devices() {
    let folder = Folder::new();
    folder.kernel("vmlinuz", 0b1010, LINUX_6_17);
    folder.write("config-6.17.7-300.fc43.aarch64", FEDORA);
    let ended = folder.check(&["vmlinuz"]);
    assert_eq!((ended.code, ended.error.as_str()), (Some(0), ""));
    for line in [
        "kernel   Linux 6.17.7-300.fc43.aarch64, 4 KiB pages, little-endian, raw Image\n",
        "config   ./config-6.17.7-300.fc43.aarch64, beside the kernel\n",
        "built in interrupts and power domains\n",
        "usable: ",
    ] {
        assert!(ended.out.contains(line), "{line}: {}", ended.out);
    }
    let json = folder.check(&["vmlinuz", "--json"]);
    assert_eq!(json.code, Some(0));
    let json: Value = serde_json::from_str(&json.out).expect("JSON");
    check_schema(&json);
    assert_eq!(json["kernel"]["page_bytes"], 4096);
    assert_eq!(json["judgement"]["is_usable"], true);
    let devices = json["judgement"]["devices"].as_array().expect("devices");
    assert!(devices.iter().any(|it| it["name"] == "Wi-Fi" && it["verdict"] == "module"));
    assert!(devices.iter().all(|it| it["options"][0]["source"].is_string()));
}

#[test]
fn an_unusable_kernel_ends_with_1_and_the_reasons() {
    let folder = Folder::new();
    folder.kernel("vmlinuz", 0b1010, "Linux version 6.12.118+deb13-arm64 (x@y) #1 SMP\n");
    folder.write("debian", DEBIAN);
    let ended = folder.check(&["vmlinuz", "--config", "debian"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.out.contains("not usable: internal SSD: CONFIG_NVME_APPLE"), "{}", ended.out);
    folder.kernel("large", 0b1110, LINUX_6_17);
    let ended = folder.check(&["large"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.out.contains("not usable: 64 KiB pages"), "{}", ended.out);
}

#[test]
fn without_a_configuration_it_ends_with_2_and_what_to_name() {
    let folder = Folder::new();
    folder.kernel("vmlinuz", 0b1010, LINUX_6_17);
    let ended = folder.check(&["vmlinuz"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.out.contains("unknown: ") && ended.out.contains("--config"), "{}", ended.out);
}

#[test]
fn u_boot_is_recognised() {
    let folder = Folder::new();
    folder.kernel("u-boot-nodtb.bin", 0b1010, "U-Boot 2025.01-3 (Apr 08 2025 - 00:00:00)\n");
    let ended = folder.check(&["u-boot-nodtb.bin"]);
    assert_eq!(ended.code, Some(0));
    assert!(ended.out.starts_with("kernel   U-Boot 2025.01-3, raw Image\n"), "{}", ended.out);
    let json = folder.check(&["u-boot-nodtb.bin", "--json"]).out;
    let json: Value = serde_json::from_str(&json).expect("JSON");
    check_schema(&json);
    assert_eq!((&json["kernel"]["kind"], &json["judgement"]), (&"u-boot".into(), &Value::Null));
}

#[test]
fn wrong_files_are_refused_in_one_line() {
    let folder = Folder::new();
    folder.kernel("vmlinuz", 0b1010, LINUX_6_17);
    folder.write("config", FEDORA);
    folder.write("script", "#!/bin/sh\nexit 0\n");
    folder.write("x86", "# Linux/x86 6.17.7 Kernel Configuration\nCONFIG_X86=y\n");
    folder.write("older", "# Linux/arm64 6.12.1 Kernel Configuration\nCONFIG_ARM64=y\n");
    folder.write("16k", "CONFIG_ARM64=y\nCONFIG_ARM64_16K_PAGES=y\n");
    folder.refused(&["absent"], "cannot read the kernel absent");
    folder.refused(&["script"], "name an arm64 Image");
    folder.refused(&["vmlinuz", "--config", "script"], "no kernel configuration");
    folder.refused(&["vmlinuz", "--config", "x86"], "for x86");
    folder.refused(&["vmlinuz", "--config", "older"], "of Linux 6.12, the kernel is 6.17");
    folder.refused(&["vmlinuz", "--config", "16k"], "with 16 KiB pages, this one has 4");
    folder.refused(&["vmlinuz", "--config", "config", "--initrd", "script"], "no initrd");
    folder.refused(
        &["vmlinuz", "--config", "config", "--device-tree", "x86"],
        "no whole device tree",
    );
}

/// Panics unless what was printed is as `oche schema check-kernel` says, field by field.
fn check_schema(json: &Value) {
    let strict = oche::schema::strict("check-kernel").expect("a schema");
    let validator = jsonschema::draft202012::new(&strict).expect("a schema");
    if let Some(error) = validator.iter_errors(json).next() {
        panic!("{error} at {}: {json:#}", error.instance_path());
    }
}
