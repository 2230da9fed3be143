//! Wrong input of `oche install`: refused in one line, and nothing is changed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use oche::command;

use super::bench::Workbench;
use super::system::{BOOT_FILE, ScratchSystem, text_of};

const COMPATIBLE: &str = "proc/device-tree/compatible";
const SCRIPT: &str = "usr/bin/update-m1n1";
const SETTINGS: &str = "etc/default/update-m1n1";
const M1N1: &str = "usr/lib/m1n1/m1n1.bin";
const U_BOOT: &str = "usr/lib/u-boot/apple_m1/u-boot-nodtb.bin";

/// One wrong input.
struct Case {
    name: &'static str,
    make: fn(&ScratchSystem) -> Result<()>,
    /// Arguments besides the usual.
    more: &'static [&'static str],
    /// A part of the line.
    reason: &'static str,
}

const fn case(
    name: &'static str,
    make: fn(&ScratchSystem) -> Result<()>,
    reason: &'static str,
) -> Case {
    Case { name, make, more: &[], reason }
}

const CASES: &[Case] = &[
    case(
        "another Mac",
        |it| it.write(COMPATIBLE, b"apple,j314s\0apple,t6000\0apple,arm-platform\0"),
        "apple,t6000",
    ),
    case("no Mac", |it| it.remove(COMPATIBLE), "has no device tree"),
    case("no EFI system partition", |it| it.remove_folder("boot/efi"), "is mounted at /boot/efi"),
    case("no boot file", |it| it.remove(BOOT_FILE), "boot.bin is missing"),
    case("a foreign boot file", |it| it.write(BOOT_FILE, b"another loader"), "m1n1 is not in it"),
    case("a boot file that is cut short", |it| it.shorten(BOOT_FILE), "boot.bin is not what"),
    case("a boot file with a damaged byte", |it| it.damage(BOOT_FILE), "boot.bin is not what"),
    case("no script", |it| it.remove(SCRIPT), "install asahi-scripts"),
    case(
        "an unknown script",
        |it| it.edit(SCRIPT, "gzip -c \"$U_BOOT\"", "xz -c \"$U_BOOT\""),
        "lacks the line for U-Boot, compressed",
    ),
    case(
        "a script that is switched off",
        |it| it.write(SETTINGS, b"M1N1_UPDATE_DISABLED=1\n"),
        "disables /usr/bin/update-m1n1",
    ),
    case(
        "a script for another file",
        |it| it.write(SETTINGS, b"TARGET=/boot/other.bin\n"),
        "another boot file",
    ),
    case(
        "settings that are no shell code",
        |it| it.write(SETTINGS, b"if\n"),
        "cannot read /etc/default",
    ),
    case(
        "settings that Oche's lines cannot follow",
        |it| it.write(SETTINGS, b"DTBS='/boot/dtbs/*.dtb'\nreadonly U_BOOT=/x\n"),
        "/etc/default/update-m1n1",
    ),
    case("no device trees", |it| it.remove_folder("boot/dtbs"), "no device tree for apple,j313"),
    case(
        "device trees of other Macs",
        |it| it.remove("boot/dtbs/t8103-j313.dtb"),
        "no device tree for apple,j313",
    ),
    case("no m1n1", |it| it.remove(M1N1), "m1n1 is missing"),
    case("an m1n1 that is none", |it| it.write(M1N1, b"text"), "is no m1n1"),
    case("no U-Boot", |it| it.remove(U_BOOT), "install u-boot-asahi"),
    case("a U-Boot that is none", |it| it.write(U_BOOT, b"text"), "u-boot-nodtb.bin"),
    case(
        "a damaged record",
        |it| it.write("var/lib/oche/state.json", b"{"),
        "state.json is damaged",
    ),
    case(
        "a backup of an earlier installation",
        |it| it.write("boot/efi/m1n1/boot.bin.before-oche", b"x"),
        "move it away first",
    ),
    Case {
        name: "a kernel instead of U-Boot",
        make: |_| Ok(()),
        more: &["--u-boot", "/usr/lib/m1n1/m1n1.bin"],
        reason: "m1n1.bin cannot be started",
    },
    Case {
        name: "an option that Oche does not know",
        make: |_| Ok(()),
        more: &["--option", "oche.nonsense=1"],
        reason: "Oche does not take this oche.nonsense",
    },
    Case {
        name: "device trees that are not there",
        make: |_| Ok(()),
        more: &["--dtbs", "/nowhere/*.dtb"],
        reason: "no device tree for apple,j313 is there",
    },
    Case {
        name: "device trees by a relative path",
        make: |_| Ok(()),
        more: &["--dtbs", "*.dtb"],
        reason: "name absolute paths",
    },
    Case {
        name: "a folder that is no EFI system partition",
        make: |_| Ok(()),
        more: &["--esp", "/etc"],
        reason: "/etc has no folder m1n1",
    },
];

/// Tries all; returns how many, and what this machine does not allow to try.
///
/// # Errors
///
/// One is accepted, refused unclearly, or changes a file.
pub(super) fn run(bench: &Workbench, system: &ScratchSystem) -> Result<(usize, &'static str)> {
    let whole = system.files()?;
    for case in CASES {
        (case.make)(system).context(case.name)?;
        let arguments = bench.arguments(case.more);
        system.refuses(&arguments, case.reason).context(case.name)?;
        system.restore(&whole).context(case.name)?;
    }
    by_hand(bench, system)?;
    system.restore(&whole)?;
    no_privileges(bench, system)?;
    let untried = partitions(bench, system)?;
    let mounted = if untried.is_empty() { 2 } else { 0 };
    Ok((CASES.len() + 2 + mounted, untried))
}

/// A boot file with an Oche that was put there by hand.
fn by_hand(bench: &Workbench, system: &ScratchSystem) -> Result<()> {
    system.succeeds(&bench.arguments(&[]))?;
    system.remove_folder("var/lib/oche/state.json")?;
    system.refuses(&bench.arguments(&[]), "record is missing")?;
    system.write(SETTINGS, b"DTBS=/boot/dtbs/*.dtb\n")?;
    system.refuses(&bench.arguments(&[]), "did not put there").context("an Oche put there by hand")
}

/// A user who may not write there.
fn no_privileges(bench: &Workbench, system: &ScratchSystem) -> Result<()> {
    const NOBODY: &str = "65534";
    let before = system.files()?;
    let line = system.command(&bench.arguments(&[]));
    let mut run = Command::new(line.get_program());
    let folder = system.folder.join("boot/efi/m1n1");
    let protect = |mode| fs::set_permissions(&folder, Permissions::from_mode(mode));
    if is_root()? {
        run = Command::new("setpriv");
        run.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(line.get_program());
    } else {
        protect(0o555).context("m1n1's folder")?;
    }
    let answer = command::answer(run.args(line.get_args()));
    protect(0o755).context("m1n1's folder")?;
    let answer = answer?;
    let printed = String::from_utf8_lossy(&answer.stderr).into_owned();
    if answer.status.code() != Some(2) || !printed.contains("run it as root") {
        bail!("a user without privileges: {}: {printed}", answer.status);
    }
    system.expect_files(&before)
}

fn is_root() -> Result<bool> {
    Ok(command::text(Command::new("id").arg("-u"), "asking who runs this")?.trim() == "0")
}

/// A partition that is full, and one that is mounted read-only: real mounts, in a namespace of
/// their own. Returns what cannot be tried.
fn partitions(bench: &Workbench, system: &ScratchSystem) -> Result<&'static str> {
    /// The arguments: the partition's folder, the options of its mount, whether to write-protect
    /// it, and the command. What is on the partition is compared in the namespace.
    const SCRIPT: &str = r#"
esp=$1 options=$2 protect=$3
shift 3
cp -a "$esp" "$esp.copy" && mount -t tmpfs -o "$options" tmpfs "$esp" || exit 90
cp -a "$esp.copy/." "$esp" || exit 91
[ -z "$protect" ] || mount -o remount,ro "$esp" || exit 92
"$@"
status=$?
diff -r "$esp.copy" "$esp" >&2 || exit 93
exit $status
"#;
    let namespaces: &[&str] =
        if is_root()? { &["--mount"] } else { &["--user", "--map-root-user", "--mount"] };
    let probe = Command::new("unshare")
        .args(namespaces)
        .args(["mount", "-t", "tmpfs", "tmpfs", &text_of(&system.folder.join("boot/efi"))])
        .output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        return Ok("; a full and a read-only partition cannot be tried: no mount is allowed here");
    }
    let esp = system.folder.join("boot/efi");
    let cases = [("size=3M", "", "free space"), ("size=64M", "protect", "read-only")];
    for (options, protect, reason) in cases {
        let line = system.command(&bench.arguments(&[]));
        let mut run = Command::new("unshare");
        run.args(namespaces).args(["sh", "-c", SCRIPT, "sh"]);
        run.arg(&esp).args([options, protect]).arg(line.get_program()).args(line.get_args());
        let answer = command::answer(&mut run)?;
        let copy = esp.with_extension("copy");
        fs::remove_dir_all(&copy).context("the copy of the partition")?;
        let printed = String::from_utf8_lossy(&answer.stderr).into_owned();
        if answer.status.code() != Some(2) || !printed.contains(reason) {
            bail!("a partition with {options} {protect}: {}: {printed}", answer.status);
        }
    }
    Ok("")
}

impl ScratchSystem {
    fn remove_folder(&self, name: &str) -> Result<()> {
        let path = self.folder.join(name);
        let done = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        done.with_context(|| format!("cannot remove {name}"))
    }

    fn edit(&self, name: &str, from: &str, to: &str) -> Result<()> {
        let text = self.read(name)?;
        if !text.contains(from) {
            bail!("{name} has no `{from}`");
        }
        fs::write(self.folder.join(name), text.replace(from, to)).context("a file of the system")
    }

    fn shorten(&self, name: &str) -> Result<()> {
        self.with_bytes(name, |bytes| bytes.truncate(bytes.len() - 4096))
    }

    /// Changes one byte in the last quarter: of a boot file, in U-Boot.
    fn damage(&self, name: &str) -> Result<()> {
        self.with_bytes(name, |bytes| {
            let place = bytes.len() - bytes.len() / 8;
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 0x40;
            }
        })
    }

    fn with_bytes(&self, name: &str, change: fn(&mut Vec<u8>)) -> Result<()> {
        let path = self.folder.join(name);
        let mut bytes = fs::read(&path).with_context(|| format!("cannot read {name}"))?;
        change(&mut bytes);
        fs::write(path, bytes).context("a file of the system")
    }
}
