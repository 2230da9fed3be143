//! The EFI system partition that m1n1's second stage is on.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{Access, StatVfsMountFlags, access, major, minor, statvfs};

use super::files::fresh_name;
use super::mac::Mac;
use super::root::SystemRoot;

/// Where the partition is if m1n1 does not name it; in the order of the script.
/// Source: asahi-scripts 20250130 and 20250713, `functions.sh`, `mount_sys_esp`.
const USUAL: [&str; 2] = ["/boot/efi", "/boot"];
/// m1n1's folder on it.
const FOLDER: &str = "m1n1";

/// The partition, mounted.
#[derive(Clone, Debug)]
pub(super) struct Esp {
    /// m1n1's folder, for this process.
    pub(super) folder: PathBuf,
    /// How it was found, for a person.
    pub(super) found: String,
}

impl Esp {
    /// Finds the partition: at `given`, a path of that system, or by the Mac's device tree.
    ///
    /// # Errors
    ///
    /// It is not mounted, is another than m1n1's, or has no folder of m1n1.
    pub(super) fn find(root: &SystemRoot, mac: &Mac, given: Option<&Path>) -> Result<Self> {
        let named = mac.esp.as_deref().and_then(|uuid| Named::find(root, uuid));
        let (mount, found) = match (given, named, &mac.esp) {
            (Some(given), named, _) => {
                let mount = root.path(given);
                if let Some(named) = named {
                    named.check(&mount, given)?;
                }
                (mount, "--esp".to_owned())
            }
            (None, Some(named), _) => {
                let mount = named.mounted(root)?;
                (mount, format!("PARTUUID {}, named by m1n1", named.uuid))
            }
            (None, None, Some(uuid)) if root.is_own() => {
                bail!("m1n1 was read from the partition {uuid}, and no disk has it: name --esp")
            }
            (None, None, _) => {
                let folder = USUAL.iter().find(|folder| root.path(folder).join(FOLDER).is_dir());
                let folder = folder.context(
                    "no EFI system partition with m1n1 is mounted at /boot/efi or /boot: mount it, \
                     or name --esp",
                )?;
                (root.path(folder), format!("the folder m1n1 in {folder}"))
            }
        };
        let folder = mount.join(FOLDER);
        if !folder.is_dir() {
            let inside = root.inside(&mount);
            bail!("{} has no folder {FOLDER}: it is not the partition of m1n1", inside.display());
        }
        Ok(Self { folder, found })
    }

    /// m1n1's second stage and all that it starts.
    pub(super) fn boot_file(&self) -> PathBuf {
        self.folder.join("boot.bin")
    }

    /// The boot file from before the first installation. No version of the script has this name.
    pub(super) fn backup(&self) -> PathBuf {
        self.folder.join("boot.bin.before-oche")
    }

    /// The file that the script is to write instead of the boot file.
    pub(super) fn scratch(&self) -> PathBuf {
        self.folder.join("boot.bin.oche-new")
    }

    /// What an interrupted run may leave, apart from a backup.
    pub(super) fn leftovers(&self) -> [PathBuf; 5] {
        let of_script = |ending: &str| {
            let mut name = self.scratch().into_os_string();
            name.push(ending);
            PathBuf::from(name)
        };
        [
            self.scratch(),
            of_script(".new"),
            of_script(".old"),
            fresh_name(&self.backup()),
            fresh_name(&self.boot_file()),
        ]
    }

    /// Refuses a partition that cannot be written, or has less than `bytes` free.
    ///
    /// # Errors
    ///
    /// It is one.
    pub(super) fn check_writable(&self, bytes: u64) -> Result<()> {
        let name = self.folder.display();
        let found = statvfs(&self.folder).with_context(|| format!("cannot look at {name}"))?;
        if found.f_flag.contains(StatVfsMountFlags::RDONLY) {
            bail!("{name} is mounted read-only: run `mount -o remount,rw` of its partition");
        }
        if access(&self.folder, Access::WRITE_OK).is_err() {
            bail!("{name} may not be written by this user: run it as root");
        }
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        if free < bytes {
            bail!(
                "{name} has {} KiB free, and {} KiB are needed: free space on its partition",
                free >> 10,
                bytes.div_ceil(1024)
            );
        }
        Ok(())
    }
}

/// The partition that m1n1 names, by its device.
struct Named {
    uuid: String,
    device: (u32, u32),
}

impl Named {
    fn find(root: &SystemRoot, uuid: &str) -> Option<Self> {
        let link = root.path("/dev/disk/by-partuuid").join(uuid.to_lowercase());
        let inside = root.inside(&fs::canonicalize(&link).ok()?);
        let device = fs::metadata(root.path(inside)).ok().or_else(|| fs::metadata(link).ok())?;
        let number = device.rdev();
        Some(Self { uuid: uuid.to_owned(), device: (major(number), minor(number)) })
    }

    /// Where it is mounted.
    fn mounted(&self, root: &SystemRoot) -> Result<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
        mount_of(&table, self.device, root.folder()).with_context(|| {
            format!(
                "the EFI system partition is not mounted: run `mount PARTUUID={} /boot/efi`",
                self.uuid
            )
        })
    }

    fn check(&self, mount: &Path, given: &Path) -> Result<()> {
        let given = given.display();
        let found = fs::metadata(mount).with_context(|| format!("cannot read {given}"))?.dev();
        if (major(found), minor(found)) != self.device {
            bail!("{given} is not the partition {} that m1n1 was read from", self.uuid);
        }
        Ok(())
    }
}

/// Where the whole of `device` is mounted below `root`, in a table as of `/proc/self/mountinfo`.
fn mount_of(table: &str, device: (u32, u32), root: &Path) -> Option<PathBuf> {
    let number = format!("{}:{}", device.0, device.1);
    table.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(2);
        let (device, top, mount) = (fields.next()?, fields.next()?, fields.next()?);
        let mount = PathBuf::from(unescaped(mount));
        (device == number && top == "/" && mount.starts_with(root)).then_some(mount)
    })
}

/// A path without the octal escapes of that table.
fn unescaped(text: &str) -> String {
    [(r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", r"\")]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::{Esp, Mac, SystemRoot, mount_of};
    use std::fs;
    use std::path::Path;

    #[test]
    fn the_partition_is_found_among_the_mounts() {
        let table = "\
            25 1 259:5 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p5 rw\n\
            40 25 259:4 /sub /elsewhere rw - vfat /dev/nvme0n1p4 rw\n\
            41 25 259:4 / /boot/my\\040efi rw - vfat /dev/nvme0n1p4 rw\n";
        let found = |root: &str| mount_of(table, (259, 4), Path::new(root));
        assert_eq!(found("/").as_deref(), Some(Path::new("/boot/my efi")));
        assert_eq!(found("/mnt"), None);
        assert_eq!(mount_of(table, (259, 1), Path::new("/")), None);
    }

    #[test]
    fn a_missing_partition_is_named_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let root = SystemRoot::open(folder.path()).unwrap();
        let mac = Mac { name: "apple,j313".into(), model: "Mac".into(), esp: Some("1-2".into()) };
        let refusal = |given: Option<&str>| {
            format!("{:#}", Esp::find(&root, &mac, given.map(Path::new)).unwrap_err())
        };
        assert!(refusal(None).contains("mounted at /boot/efi or /boot"), "{}", refusal(None));
        fs::create_dir_all(folder.path().join("boot/m1n1")).unwrap();
        let esp = Esp::find(&root, &mac, None).unwrap();
        assert!(esp.boot_file().ends_with("boot/m1n1/boot.bin"));
        let text = refusal(Some("/srv"));
        assert!(text.contains("/srv has no folder m1n1"), "{text}");
        let text = format!("{:#}", esp.check_writable(u64::MAX).unwrap_err());
        assert!(text.contains("are needed: free space"), "{text}");
    }
}
