//! The demo's disks: made before the run, read by the host after it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use oche::{command, workspace};
use sha2::{Digest, Sha256};

/// Sizes of disks and files, in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The file that the guest writes to the NVMe and reads back.
    pub nvme_file: u64,
    /// Each prefilled disk, and so each transfer.
    pub prefilled: u64,
    /// The file that the server serves.
    pub served: u64,
    /// The first part of it, which virtio-net fetches: every packet costs an emulated machine much
    /// time.
    pub part: u64,
    /// Each of the files on the memory-mapped disk.
    pub copied: u64,
    /// How often a transfer to or from a disk moves its bytes: a number, not MiB.
    pub turns: u64,
}

impl Sizes {
    /// Sizes for the demo.
    pub const FULL: Self =
        Self { nvme_file: 64, prefilled: 4, served: 16, part: 16, copied: 3, turns: 8 };
    /// Sizes for tests.
    pub const SHORT: Self =
        Self { nvme_file: 8, prefilled: 1, served: 2, part: 1, copied: 1, turns: 2 };
}

/// How many files are copied from the memory-mapped disk and back.
const COPIED_FILES: u64 = 3;

/// The disk images, the served file, and what their digests must be.
#[derive(Clone, Debug)]
pub struct Disks {
    /// Empty; the guest makes a file system on it.
    pub nvme: PathBuf,
    /// Random bytes, read over USB.
    pub usb: PathBuf,
    /// Random bytes, read by virtio-blk.
    pub virtio: PathBuf,
    /// Random bytes, read by the virtio-blk that shares its stream.
    pub shared: PathBuf,
    /// A file system with files, on the disk that no IOMMU translates.
    pub memory_mapped: PathBuf,
    /// The file that the server serves whole.
    pub served: Vec<u8>,
    /// The first part of it.
    pub part: Vec<u8>,
    /// The bytes of every transfer, which are those of `shared`; none is zero.
    pub transferred: Vec<u8>,
    /// SHA-256 by the name under which the guest prints its own.
    pub expected: BTreeMap<String, String>,
}

impl Disks {
    /// Makes all of them anew in a folder.
    ///
    /// # Errors
    ///
    /// The disk is full, or `mkfs.ext4` is missing.
    pub fn make(folder: &Path, sizes: Sizes) -> Result<Self> {
        workspace::create_folder(folder)?;
        let mut expected = BTreeMap::new();
        let mut prefilled = |name: &str, bytes: &[u8]| -> Result<PathBuf> {
            let path = folder.join(format!("{name}.img"));
            expected.insert(name.to_owned(), hex_digest(bytes));
            write(&path, bytes)?;
            Ok(path)
        };
        let transferred = without_zeros(random_bytes(sizes.prefilled << 20)?);
        let usb = prefilled("usb", &random_bytes(sizes.prefilled << 20)?)?;
        let virtio = prefilled("virtio-blk", &random_bytes(sizes.prefilled << 20)?)?;
        let shared = prefilled("shared-blk", &transferred)?;
        expected.insert("transferred".to_owned(), hex_digest(&transferred));
        let served = random_bytes(sizes.served << 20)?;
        let part = served.get(..(sizes.part << 20) as usize).unwrap_or(&served).to_vec();
        expected.insert("e1000e".to_owned(), hex_digest(&served));
        expected.insert("virtio-net".to_owned(), hex_digest(&part));
        let nvme = folder.join("nvme.img");
        make_sparse(&nvme, (sizes.nvme_file * 2 + 64) << 20)?;
        let memory_mapped = folder.join("mmio.img");
        let files = folder.join("mmio");
        workspace::remove_folder(&files)?;
        workspace::create_folder(&files.join("files"))?;
        for number in 1..=COPIED_FILES {
            // Odd sizes: the last page is never full.
            let bytes = random_bytes((sizes.copied << 20) + number * 777)?;
            expected.insert(format!("mmio-{number}"), hex_digest(&bytes));
            write(&files.join("files").join(number.to_string()), &bytes)?;
        }
        make_sparse(&memory_mapped, (sizes.copied * COPIED_FILES * 3 + 32) << 20)?;
        command::run(
            Command::new(program("mkfs.ext4"))
                .args(["-q", "-F", "-d"])
                .arg(&files)
                .arg(&memory_mapped),
            "making the memory-mapped disk",
        )?;
        workspace::remove_folder(&files)?;
        Ok(Self { nvme, usb, virtio, shared, memory_mapped, served, part, transferred, expected })
    }

    /// Computes from the images, after the guest is off, what the guest should have left there.
    ///
    /// # Errors
    ///
    /// `debugfs` is missing. A file that is not there is no error but has no digest.
    pub fn left_by_guest(&self, folder: &Path) -> Result<BTreeMap<String, String>> {
        let mut found = BTreeMap::new();
        let mut take = |image: &Path, inside: String, name: String| -> Result<()> {
            if let Some(bytes) = extract(image, &inside, folder)? {
                found.insert(name, hex_digest(&bytes));
            }
            Ok(())
        };
        take(&self.nvme, "/random".into(), "nvme".into())?;
        take(&self.nvme, "/transferred".into(), "nvme transferred".into())?;
        for number in 1..=COPIED_FILES {
            take(&self.nvme, format!("/from-mmio/{number}"), format!("nvme mmio-{number}"))?;
            take(&self.memory_mapped, format!("/back/{number}"), format!("back mmio-{number}"))?;
        }
        for (name, image) in [("usb", &self.usb), ("virtio-blk", &self.virtio)] {
            let bytes =
                fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
            found.insert(format!("{name} transferred"), hex_digest(&bytes));
        }
        Ok(found)
    }
}

/// Takes a file out of an ext4 image, as `debugfs` (e2fsprogs) reads it; `None` if there is no such
/// file.
fn extract(image: &Path, inside: &str, folder: &Path) -> Result<Option<Vec<u8>>> {
    let into = folder.join("extracted");
    // A file of an earlier call must not pass for this one.
    let _ = fs::remove_file(&into);
    command::output(
        Command::new(program("debugfs"))
            .arg("-R")
            .arg(format!("dump {inside} {}", into.display()))
            .arg(image),
        "reading the disk image",
    )?;
    let bytes = fs::read(&into).ok().filter(|bytes| !bytes.is_empty());
    let _ = fs::remove_file(&into);
    Ok(bytes)
}

/// Programs of e2fsprogs lie where only root's path looks.
fn program(name: &str) -> PathBuf {
    command::find(name).unwrap_or_else(|| name.into())
}

/// SHA-256 in small hexadecimal letters.
#[must_use]
pub fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn random_bytes(count: u64) -> Result<Vec<u8>> {
    let source = File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    let mut bytes = Vec::new();
    source.take(count).read_to_end(&mut bytes).context("cannot read /dev/urandom")?;
    Ok(bytes)
}

/// busybox's wget ends the file that it sends at the first zero.
fn without_zeros(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = 1);
    bytes
}

fn make_sparse(path: &Path, bytes: u64) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    file.set_len(bytes).with_context(|| format!("cannot size {}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file =
        File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(bytes)
        .with_context(|| format!("cannot write {}: is the disk full?", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{Disks, Sizes, extract, hex_digest};

    #[test]
    fn a_digest_is_the_usual_one() {
        assert_eq!(
            hex_digest(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn what_was_put_on_the_memory_mapped_disk_is_read_from_it() {
        let folder = tempfile::tempdir().unwrap();
        let sizes = Sizes { nvme_file: 1, prefilled: 1, served: 2, part: 1, copied: 1, turns: 1 };
        let disks = Disks::make(folder.path(), sizes).unwrap();
        let bytes = extract(&disks.memory_mapped, "/files/2", folder.path()).unwrap().unwrap();
        assert_eq!(bytes.len(), (1 << 20) + 2 * 777);
        assert_eq!(Some(&hex_digest(&bytes)), disks.expected.get("mmio-2"));
        assert_eq!(extract(&disks.memory_mapped, "/files/nothing", folder.path()).unwrap(), None);
        assert_eq!(disks.expected.get("e1000e"), Some(&hex_digest(&disks.served)));
        assert_eq!((disks.served.len(), disks.part.len()), (2 << 20, 1 << 20));
        assert!(!disks.transferred.contains(&0));
        let (transferred, left) = (&disks.transferred, disks.left_by_guest(folder.path()).unwrap());
        assert_eq!(disks.expected.get("transferred"), Some(&hex_digest(transferred)));
        assert!(!left.contains_key("nvme transferred") && left.len() == 2, "{left:?}");
        std::fs::write(&disks.usb, transferred).unwrap();
        let left = disks.left_by_guest(folder.path()).unwrap();
        assert_eq!(left.get("usb transferred"), disks.expected.get("transferred"));
        assert_ne!(left.get("virtio-blk transferred"), disks.expected.get("transferred"));
    }
}
