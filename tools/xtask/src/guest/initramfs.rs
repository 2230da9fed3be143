//! Building the guest's initramfs: programs, modules in load order, and an init script.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use cpio::newc::{Builder, ModeFileType, trailer};
use oche::{command, workspace};

use super::kernel::GuestKernel;
use super::modules;
use super::userland::Userland;

/// The modules for every device that the demonstration attaches; `?` marks what some kernels have
/// built in or renamed.
///
/// The checksum modules are what NVMe and SCSI ask the kernel's crypto layer for by name when they
/// start.
pub const DEVICE_MODULES: &[&str] = &[
    "?crc64_rocksoft_generic",
    "?crct10dif_ce",
    "?crc32c_generic",
    "nvme",
    "e1000e",
    "xhci-pci",
    "sd_mod",
    "usb-storage",
    "virtio_mmio",
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "ext4",
];

/// The start of every init script: the usual mounts, busybox's tools, and `load_modules`.
///
/// `load_modules` loads, in order, what [`Initramfs::add_modules`] packed, and prints
/// `init: cannot load NAME` for each that fails.
pub const INIT_PROLOGUE: &str = r#"#!/bin/busybox sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/ TERM=linux
/bin/busybox mount -t devtmpfs devtmpfs /dev
exec </dev/console >/dev/console 2>&1
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /tmp
load_modules() {
    while read -r module; do
        insmod "/lib/modules/$module" || echo "init: cannot load $module"
    done </etc/modules-to-load
}
"#;

/// An init script that loads the modules and gives a shell on the console; leaving the shell turns
/// the guest off.
pub const INIT_SHELL: &str = r#"load_modules
ip link set lo up
echo "init: $(uname -r), pages of $(getconf PAGESIZE) bytes"
setsid cttyhack sh
poweroff -f
"#;

/// An initramfs being put together; the same content always gives the same bytes.
#[derive(Debug, Default)]
pub struct Initramfs {
    entries: BTreeMap<String, Entry>,
    modules: Vec<String>,
}

#[derive(Debug)]
enum Entry {
    Folder,
    File { bytes: Vec<u8>, mode: u32 },
    Link { target: String },
}

impl Initramfs {
    /// Begins with the shell, `mkfs.ext4`, `getconf`, and the folders that an init script mounts
    /// over.
    ///
    /// # Errors
    ///
    /// A file of the userland cannot be read.
    pub fn new(userland: &Userland) -> Result<Self> {
        let mut initramfs = Self::default();
        for folder in [
            "dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp", "bin", "sbin", "usr/bin",
            "usr/sbin",
        ] {
            initramfs.add_folder(folder);
        }
        initramfs.add_file_of("bin/busybox", &userland.file("bin/busybox")?)?;
        for program in ["sbin/mke2fs", "usr/bin/getconf"] {
            for (path, file) in userland.program(program)? {
                initramfs.add_file_of(&path, &file)?;
            }
        }
        initramfs.add_file_of("etc/mke2fs.conf", &userland.file("etc/mke2fs.conf")?)?;
        initramfs.add_link("sbin/mkfs.ext4", "mke2fs");
        Ok(initramfs)
    }

    /// Sets the init script: [`INIT_PROLOGUE`] and then `body`.
    pub fn set_init(&mut self, body: &str) {
        self.add_file("init", format!("{INIT_PROLOGUE}{body}").into_bytes(), 0o755);
    }

    /// Adds a file by its path in the guest, with its permission bits.
    pub fn add_file(&mut self, path: &str, bytes: Vec<u8>, mode: u32) {
        let path = path.trim_matches('/').to_owned();
        self.add_folders_above(&path);
        self.entries.insert(path, Entry::File { bytes, mode });
    }

    /// Adds a copy of a file of this machine, by its path in the guest.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn add_file_of(&mut self, path: &str, file: &Path) -> Result<()> {
        let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let is_program =
            fs::metadata(file).is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0);
        self.add_file(path, bytes, if is_program { 0o755 } else { 0o644 });
        Ok(())
    }

    /// Adds a symbolic link by its path in the guest.
    pub fn add_link(&mut self, path: &str, target: &str) {
        let path = path.trim_matches('/').to_owned();
        self.add_folders_above(&path);
        self.entries.insert(path, Entry::Link { target: target.to_owned() });
    }

    /// Adds a folder and those above it.
    pub fn add_folder(&mut self, path: &str) {
        let path = path.trim_matches('/').to_owned();
        self.add_folders_above(&path);
        self.entries.entry(path).or_insert(Entry::Folder);
    }

    /// Adds a module from a file of this machine, to be loaded after those added before.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is compressed and cannot be expanded.
    pub fn add_module_file(&mut self, file: &Path) -> Result<()> {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let (plain_name, bytes) = expand(name, file)?;
        let path = format!("extra/{plain_name}");
        self.add_file(&format!("lib/modules/{path}"), bytes, 0o644);
        self.modules.push(path);
        Ok(())
    }

    /// Adds modules of a kernel and all that they need, to be loaded after those added before.
    ///
    /// # Errors
    ///
    /// The kernel lacks one of them (names that begin with `?` may be lacking), or a file cannot be
    /// read.
    pub fn add_modules(&mut self, kernel: &GuestKernel, wanted: &[&str]) -> Result<()> {
        let folder = kernel.modules();
        for path in modules::load_order(&kernel.root, &kernel.release, wanted)? {
            let file = folder.join(&path);
            let (plain_path, bytes) = expand(&path, &file)?;
            if self.modules.contains(&plain_path) {
                continue;
            }
            self.add_file(&format!("lib/modules/{plain_path}"), bytes, 0o644);
            self.modules.push(plain_path);
        }
        Ok(())
    }

    /// The modules in load order, below the guest's `/lib/modules`.
    #[must_use]
    pub fn modules(&self) -> &[String] {
        &self.modules
    }

    /// Gives the archive's bytes, uncompressed: under emulation the guest would be slow to expand
    /// it.
    ///
    /// # Errors
    ///
    /// A file is larger than the archive's format can hold, 4 GiB.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let mut list = self.modules.join("\n");
        list.push('\n');
        let list = Entry::File { bytes: list.into_bytes(), mode: 0o644 };
        let mut entries: BTreeMap<&str, &Entry> =
            self.entries.iter().map(|(path, entry)| (path.as_str(), entry)).collect();
        if !self.modules.is_empty() {
            entries.insert("etc/modules-to-load", &list);
        }
        let mut archive = Vec::new();
        for (number, (path, entry)) in (1..).zip(entries) {
            write_entry(&mut archive, number, path, entry)
                .with_context(|| format!("cannot pack {path}"))?;
        }
        trailer(&mut archive)?;
        // The boot loader's habit, which the kernel's unpacker is used to.
        archive.resize(archive.len().next_multiple_of(512), 0);
        Ok(archive)
    }

    /// Writes the archive to a file.
    ///
    /// # Errors
    ///
    /// As [`Self::bytes`], or the file cannot be written.
    pub fn write(&self, file: &Path) -> Result<()> {
        workspace::write_whole(file, &self.bytes()?)
    }

    fn add_folders_above(&mut self, path: &str) {
        for (end, _) in path.match_indices('/') {
            let above = path.get(..end).unwrap_or_default();
            self.entries.entry(above.to_owned()).or_insert(Entry::Folder);
        }
    }
}

fn write_entry(archive: &mut Vec<u8>, number: u32, path: &str, entry: &Entry) -> Result<()> {
    let (kind, mode, bytes): (_, _, &[u8]) = match entry {
        Entry::Folder => (ModeFileType::Directory, 0o755, &[]),
        Entry::File { bytes, mode } => (ModeFileType::Regular, *mode, bytes),
        Entry::Link { target } => (ModeFileType::Symlink, 0o777, target.as_bytes()),
    };
    let size = u32::try_from(bytes.len()).context("it is larger than 4 GiB")?;
    let links = if matches!(entry, Entry::Folder) { 2 } else { 1 };
    let mut writer = Builder::new(path)
        .ino(number)
        .nlink(links)
        .mode(mode)
        .set_mode_file_type(kind)
        .write(archive, size);
    writer.write_all(bytes)?;
    writer.finish()?;
    Ok(())
}

/// Reads a module, decompressing it if its name ends as a compressed one's; returns its name
/// without that ending too.
fn expand(name: &str, file: &Path) -> Result<(String, Vec<u8>)> {
    let program = match name.rsplit('.').next() {
        Some("ko") => {
            let bytes =
                fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            return Ok((name.to_owned(), bytes));
        }
        Some("xz") => "xz",
        Some("gz") => "gzip",
        Some("zst") => "zstd",
        _ => bail!(
            "{} is not a kernel module: its name ends in neither .ko nor .ko.xz, .ko.gz, .ko.zst",
            file.display()
        ),
    };
    let bytes = command::output(
        Command::new(program).arg("-dc").arg(file),
        &format!("expanding {}", file.display()),
    )?;
    let plain = name.rsplit_once('.').map_or(name, |(plain, _)| plain);
    Ok((plain.to_owned(), bytes))
}

#[cfg(test)]
mod tests {
    use super::{INIT_SHELL, Initramfs};
    use std::io::{Cursor, Read};

    fn names(bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut reader = Cursor::new(bytes.to_vec());
        let mut found = Vec::new();
        loop {
            let mut entry = cpio::newc::Reader::new(reader).expect("a readable entry");
            if entry.entry().is_trailer() {
                return found;
            }
            let (name, mode) = (entry.entry().name().to_owned(), entry.entry().mode());
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("readable content");
            found.push((name, mode, content));
            reader = entry.finish().expect("another entry");
        }
    }

    fn example() -> Initramfs {
        let mut initramfs = Initramfs::default();
        initramfs.add_file("/usr/share/deep/file", b"content".to_vec(), 0o600);
        initramfs.add_link("sbin/mkfs.ext4", "mke2fs");
        initramfs.set_init(INIT_SHELL);
        initramfs
    }

    #[test]
    fn every_folder_comes_before_what_lies_in_it() {
        let found = names(&example().bytes().expect("bytes"));
        let place =
            |wanted: &str| found.iter().position(|(name, ..)| name == wanted).expect("it is there");
        assert!(
            place("usr") < place("usr/share")
                && place("usr/share/deep") < place("usr/share/deep/file")
        );
        assert_eq!(found[place("usr/share/deep/file")].1, 0o100_600);
        assert_eq!(found[place("sbin/mkfs.ext4")].2, b"mke2fs");
        assert!(found[place("init")].2.starts_with(b"#!/bin/busybox sh\n"));
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        assert_eq!(example().bytes().expect("bytes"), example().bytes().expect("bytes"));
    }

    #[test]
    fn modules_are_listed_in_the_order_they_were_added() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut initramfs = Initramfs::default();
        for name in ["second.ko", "first.ko"] {
            std::fs::write(folder.path().join(name), name).expect("a file");
            initramfs.add_module_file(&folder.path().join(name)).expect("a module");
        }
        let found = names(&initramfs.bytes().expect("bytes"));
        let list = found.iter().find(|(name, ..)| name == "etc/modules-to-load").expect("a list");
        assert_eq!(list.2, b"extra/second.ko\nextra/first.ko\n");
    }

    #[test]
    fn a_file_that_is_no_module_is_refused() {
        let error = Initramfs::default()
            .add_module_file(std::path::Path::new("/etc/hostname"))
            .unwrap_err();
        assert!(error.to_string().contains("not a kernel module"), "{error}");
    }
}
