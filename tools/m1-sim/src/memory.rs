//! The simulated board's memory: one sparse file that QEMU has as its RAM, with the M1's addresses
//! in it.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

/// Where QEMU's virt machine has its RAM begin. Source: QEMU 7.2 `hw/arm/virt.c`, `VIRT_MEM`.
const BASE: u64 = 0x4000_0000;
/// Bytes: the M1's registers from 0x2_0000_0000 on, and its DRAM from 0x8_0000_0000 on, 16 GiB and
/// a bit.
pub const BYTES: u64 = 0xc_4000_0000 - BASE;

/// The memory. The file is removed with the value.
#[derive(Debug)]
pub struct BoardMemory {
    path: PathBuf,
    file: File,
}

impl BoardMemory {
    /// Creates the file: all zero, and sparse.
    ///
    /// # Errors
    ///
    /// The file cannot be created.
    pub fn create() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let shared = Path::new("/dev/shm");
        let folder = if shared.is_dir() { shared.to_path_buf() } else { std::env::temp_dir() };
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("oche-m1.{}.{number}", std::process::id()));
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
        let file =
            file.with_context(|| format!("cannot create the board's memory, {}", path.display()))?;
        let memory = Self { path, file };
        memory
            .file
            .set_len(BYTES)
            .with_context(|| format!("cannot size {}", memory.path.display()))?;
        Ok(memory)
    }

    /// The path that QEMU opens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path that opens the file even after its name is gone, as long as this process has it open.
    #[must_use]
    pub fn open_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }

    /// Removes the file's name, so that a crash leaves no file behind.
    pub fn forget_name(&self) {
        // Gone already is as good as removed.
        let _ = fs::remove_file(&self.path);
    }

    /// Reads physical memory; zeros outside.
    pub fn read(&self, address: u64, buffer: &mut [u8]) {
        let done = address.checked_sub(BASE).map(|offset| self.file.read_exact_at(buffer, offset));
        if !matches!(done, Some(Ok(()))) {
            buffer.fill(0);
        }
    }

    /// Writes physical memory; nothing outside.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        let end = address.saturating_add(bytes.len() as u64);
        if address >= BASE && end <= BASE + BYTES {
            // It fails only where the machine has no memory left, and then everything does.
            let _ = self.file.write_all_at(bytes, address - BASE);
        }
    }

    /// A 32-bit word.
    #[must_use]
    pub fn word(&self, address: u64) -> u32 {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Stores a 32-bit word.
    pub fn set_word(&self, address: u64, value: u32) {
        self.write(address, &value.to_le_bytes());
    }

    /// A 64-bit word.
    #[must_use]
    pub fn double(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes);
        u64::from_le_bytes(bytes)
    }
}

impl Drop for BoardMemory {
    fn drop(&mut self) {
        self.forget_name();
    }
}

#[cfg(test)]
mod tests {
    use super::BoardMemory;

    #[test]
    fn registers_and_dram_are_memory_and_the_rest_is_nothing() {
        let memory = BoardMemory::create().expect("a file");
        for address in [0x2_3520_0020, 0x6_8100_8020, 0x8_0000_0000, 0xb_ffff_fffc] {
            memory.set_word(address, 0x1234_5678);
            assert_eq!(memory.word(address), 0x1234_5678);
        }
        memory.set_word(0x100, 1);
        memory.set_word(0xf_0000_0000, 1);
        assert_eq!((memory.word(0x100), memory.word(0xf_0000_0000)), (0, 0));
        let path = memory.path().to_owned();
        drop(memory);
        assert!(!path.exists());
    }
}
