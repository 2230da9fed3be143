//! A device that copies memory: QEMU's `edu`, in slot 5, so behind DART 0 as stream 5.
//!
//! Source: QEMU 7.2 `docs/specs/edu.txt`; for the addresses `hw/arm/virt.c`, `VIRT_HIGH_PCIE_ECAM`
//! and `VIRT_PCIE_MMIO`.

use super::start::HIGH_DEVICES;

/// Configuration space of slot 5, seen through [`HIGH_DEVICES`].
const CONFIGURATION: u64 = HIGH_DEVICES + 0x1000_0000 + (5 << 15);
/// Where this guest puts the device's registers.
const REGISTERS: u64 = 0x1000_0000;
/// The device's stream.
pub(super) const STREAM: u64 = 5;
/// Its own memory, as it names it.
const BUFFER: u64 = 0x4_0000;
/// Most bytes that it copies at once here; it refuses all 4096 of its memory.
pub(super) const MAX_BYTES: u64 = 2048;
const PATIENCE: u32 = 200_000_000;

/// The device, ready.
pub(super) struct Edu(());

impl Edu {
    /// Switches it on, if it is there.
    pub(super) fn find() -> Option<Self> {
        if read(CONFIGURATION) != 0x11e8_1234 {
            return None;
        }
        write(CONFIGURATION + 0x10, REGISTERS as u32);
        // Memory space and bus master.
        write(CONFIGURATION + 4, 6);
        Some(Self(()))
    }

    /// Copies `bytes` from `iova` into the device's memory.
    pub(super) fn take(&self, iova: u64, bytes: u64) -> Result<(), &'static str> {
        self.copy(iova, BUFFER, bytes, 1);
        self.wait()
    }

    /// Copies `bytes` from the device's memory to `iova`.
    pub(super) fn put(&self, iova: u64, bytes: u64) -> Result<(), &'static str> {
        self.begin_put(iova, bytes);
        self.wait()
    }

    /// The same, without waiting.
    pub(super) fn begin_put(&self, iova: u64, bytes: u64) {
        self.copy(BUFFER, iova, bytes, 3);
    }

    /// Waits for the copy to end.
    pub(super) fn wait(&self) -> Result<(), &'static str> {
        let is_done = || read(REGISTERS + 0x98) & 1 == 0;
        (0..PATIENCE).any(|_| is_done()).then_some(()).ok_or("the device does not finish")
    }

    fn copy(&self, from: u64, to: u64, bytes: u64, command: u32) {
        for (offset, value) in
            [(0x80, from as u32), (0x88, to as u32), (0x90, bytes as u32), (0x98, command)]
        {
            write(REGISTERS + offset, value);
        }
    }
}

fn read(address: u64) -> u32 {
    // SAFETY: a device's register, mapped as a device.
    unsafe { (address as *const u32).read_volatile() }
}

fn write(address: u64, value: u32) {
    // SAFETY: as for `read`.
    unsafe { (address as *mut u32).write_volatile(value) };
}
