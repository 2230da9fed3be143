//! A device that copies memory: QEMU's `edu`, in slot 5, so behind DART 0 as stream 5.
//!
//! Source: QEMU 7.2 `docs/specs/edu.txt`; for the addresses `hw/arm/virt.c`, `VIRT_HIGH_PCIE_ECAM`
//! and `VIRT_PCIE_MMIO`.

use oche_guest_common::mmio::{read32, write32};
use oche_guest_common::{Check, PAGE_BYTES, check};

use super::mapping;
use super::stage1::HIGH_DEVICES;

/// Configuration space of slot 5, seen through [`HIGH_DEVICES`].
const CONFIGURATION: u64 = HIGH_DEVICES + 0x1000_0000 + (5 << 15);
/// Where this guest puts the device's registers.
const REGISTERS: u64 = 0x1000_0000;
/// The device's stream.
pub(super) const STREAM: u64 = 5;
/// The device's address of its own memory.
const BUFFER: u64 = 0x4_0000;
/// Most bytes that it is made to copy at once; it refuses all 4096 of its memory.
pub(super) const MAX_BYTES: u64 = 2048;
/// Polls before a copy counts as hung.
const MAX_POLLS: u32 = 200_000_000;

/// The device, ready.
pub(super) struct Edu(());

impl Edu {
    /// Enables the device, if it is there.
    pub(super) fn find() -> Option<Self> {
        if read32(CONFIGURATION) != 0x11e8_1234 {
            return None;
        }
        write32(CONFIGURATION + 0x10, REGISTERS as u32);
        // Memory space and bus master.
        write32(CONFIGURATION + 4, 6);
        Some(Self(()))
    }

    /// Copies `bytes` from `iova` into the device's memory.
    pub(super) fn take(&self, iova: u64, bytes: u64) -> Check {
        self.copy(iova, BUFFER, bytes, 1);
        self.wait()
    }

    /// Copies `bytes` from the device's memory to `iova`.
    pub(super) fn put(&self, iova: u64, bytes: u64) -> Check {
        self.begin_put(iova, bytes);
        self.wait()
    }

    /// The same, without waiting.
    pub(super) fn begin_put(&self, iova: u64, bytes: u64) {
        self.copy(BUFFER, iova, bytes, 3);
    }

    /// Waits for the copy to end.
    pub(super) fn wait(&self) -> Check {
        let is_done = || read32(REGISTERS + 0x98) & 1 == 0;
        check((0..MAX_POLLS).any(|_| is_done()), "the device does not finish")
    }

    /// The device reads at IOVA page `iova`: the access must fault, and the DART must latch it.
    pub(super) fn faults(&self, iova: usize) -> Check {
        mapping::clear_error();
        self.take(iova as u64 * PAGE_BYTES, 64)?;
        let is_latched = (0..mapping::MAX_POLLS).any(|_| mapping::has_error());
        mapping::clear_error();
        check(is_latched, "no fault")
    }

    fn copy(&self, from: u64, to: u64, bytes: u64, command: u32) {
        for (offset, value) in
            [(0x80, from as u32), (0x88, to as u32), (0x90, bytes as u32), (0x98, command)]
        {
            write32(REGISTERS + offset, value);
        }
    }
}
