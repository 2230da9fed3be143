//! The guest's RAM as a shared file that the runner reads while the guest runs.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use oche::workspace;

/// The start of RAM on QEMU's virt machine: the address of the file's first byte.
/// Source: QEMU's documentation, "'virt' generic virtual platform": RAM starts at 0x4000_0000.
pub const RAM_BASE: u64 = 0x4000_0000;

/// A file that is the guest's RAM.
///
/// The bytes change while they are read. Reads go through the file and copy, so that no reference
/// ever points at memory that another process writes.
#[derive(Debug)]
pub struct GuestRam {
    path: PathBuf,
    file: File,
    bytes: u64,
    is_named: bool,
    link: Option<PathBuf>,
}

impl GuestRam {
    /// Makes a sparse file of `bytes` bytes, in shared memory if that has the room, otherwise under
    /// `target/`.
    ///
    /// # Errors
    ///
    /// The file cannot be made.
    pub fn create(bytes: u64) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let shared = Path::new("/dev/shm");
        let folder = if free_bytes(shared).is_some_and(|free| free > bytes + bytes / 8) {
            shared.to_path_buf()
        } else {
            let folder = workspace::target().join("ram");
            workspace::create_folder(&folder)?;
            folder
        };
        let path = folder.join(format!(
            "oche-ram.{}.{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        ));
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
        let file =
            file.with_context(|| format!("cannot create the guest's memory, {}", path.display()))?;
        let memory = Self { path, file, bytes, is_named: true, link: None };
        memory
            .file
            .set_len(bytes)
            .with_context(|| format!("cannot size {}", memory.path.display()))?;
        Ok(memory)
    }

    /// The file's path, for QEMU to open.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file: offset 0 is [`RAM_BASE`].
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// A path that opens the file even after its name is gone, as long as this process has it open.
    #[must_use]
    pub fn open_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }

    /// Whether all of a range of physical addresses is RAM.
    #[must_use]
    pub fn contains(&self, address: u64, bytes: u64) -> bool {
        address
            .checked_sub(RAM_BASE)
            .and_then(|offset| offset.checked_add(bytes))
            .is_some_and(|end| end <= self.bytes)
    }

    /// Reads as the guest's CPUs would at a physical address; `None` if that is not RAM.
    #[must_use]
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Option<()> {
        if !self.contains(address, buffer.len() as u64) {
            return None;
        }
        self.file.read_exact_at(buffer, address - RAM_BASE).ok()
    }

    /// Takes the file's name away: a process that has it open keeps it, and nothing is left behind
    /// after a crash.
    pub fn forget_name(&mut self) {
        if std::mem::take(&mut self.is_named) {
            // Gone already is as good as removed.
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Has `link` lead to the open file for as long as this value lives, for `oche trace live` and
    /// the like.
    pub fn show_as(&mut self, link: &Path) {
        // A convenience: where there can be no link, the run goes on without. One of an earlier run
        // leads nowhere.
        let _ = fs::remove_file(link);
        if std::os::unix::fs::symlink(self.open_path(), link).is_ok() {
            self.link = Some(link.to_owned());
        }
    }
}

impl Drop for GuestRam {
    fn drop(&mut self) {
        self.forget_name();
        if let Some(link) = &self.link {
            let _ = fs::remove_file(link);
        }
    }
}

/// How much room a file system has, as `df` (coreutils) prints it.
fn free_bytes(folder: &Path) -> Option<u64> {
    let answer = Command::new("df")
        .args(["--output=avail", "--block-size=1"])
        .arg(folder)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    parse_free_bytes(&String::from_utf8(answer.stdout).ok()?)
}

fn parse_free_bytes(answer: &str) -> Option<u64> {
    answer.lines().nth(1)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{GuestRam, RAM_BASE, parse_free_bytes};
    use std::os::unix::fs::FileExt;

    #[test]
    fn the_files_first_byte_is_the_first_byte_of_ram() {
        let memory = GuestRam::create(0x10000).unwrap();
        memory.file().write_all_at(&[1, 2, 3, 4], 0x1000).unwrap();
        let mut bytes = [0; 4];
        assert_eq!(memory.read(RAM_BASE + 0x1000, &mut bytes), Some(()));
        assert_eq!(bytes, [1, 2, 3, 4]);
    }

    #[test]
    fn an_address_outside_ram_is_not_read() {
        let memory = GuestRam::create(0x10000).unwrap();
        let mut bytes = [0; 4];
        for address in [0, RAM_BASE - 4, RAM_BASE + 0xfffd, RAM_BASE + 0x10000, u64::MAX - 1] {
            assert_eq!(memory.read(address, &mut bytes), None, "{address:#x}");
        }
        assert_eq!(memory.read(RAM_BASE + 0xfffc, &mut bytes), Some(()));
    }

    #[test]
    fn the_file_disappears_with_its_owner() {
        let memory = GuestRam::create(0x1000).unwrap();
        let path = memory.path().to_owned();
        assert!(path.exists());
        drop(memory);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_without_a_name_can_still_be_opened() {
        let mut memory = GuestRam::create(4096).unwrap();
        memory.forget_name();
        assert!(std::fs::File::open(memory.open_path()).is_ok());
    }

    #[test]
    fn a_link_leads_to_the_open_file_and_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("guest.ram");
        let mut memory = GuestRam::create(4096).unwrap();
        memory.forget_name();
        memory.show_as(&link);
        assert_eq!(std::fs::metadata(&link).unwrap().len(), 4096);
        drop(memory);
        assert!(std::fs::symlink_metadata(&link).is_err());
    }

    #[test]
    fn the_answer_of_df_is_understood() {
        assert_eq!(parse_free_bytes("      Avail\n25216241664\n"), Some(25_216_241_664));
        assert_eq!(parse_free_bytes("df: no such file\n"), None);
    }
}
