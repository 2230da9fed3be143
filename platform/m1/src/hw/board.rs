//! The board's policy for boot.

use oche_boot::bare::board::Board;
use oche_el2::image;
use oche_types::range::{BLOCK, PhysRange, RangeList, align_up};

use super::console;
use crate::framebuffer::{self, BootScreen, DRAM};
use crate::memory;

/// What the end of DRAM is a multiple of, in bytes: every M1 has 8 or 16 GiB.
const DRAM_STEP: u64 = 1 << 30;

/// The board's policy for boot.
#[derive(Clone, Copy, Debug)]
pub struct M1Board;

// SAFETY: `main` passes the registers of every DART that the driver may take over as holes. DRAM
// begins at `DRAM.start` and ends at a multiple of `DRAM_STEP`.
unsafe impl Board for M1Board {
    const NAME: &'static str = "m1";
    /// What the root node of every M1 Mac's device tree is compatible with.
    const COMPATIBLE: &'static str = "apple,t8103";
    const INCOMPATIBLE: &'static str = "this is no M1: the FDT names no apple,t8103";
    const RESERVES_IMAGE: bool = true;
    const FAILS_OPEN: bool = true;

    fn engine_bytes(ram_bytes: u64, pool_bytes: u64) -> u64 {
        memory::engine_bytes(ram_bytes, pool_bytes)
    }

    /// DRAM from its first byte to its last: RAM, and firmware's carve-outs around it.
    fn around_ram(ram: &RangeList) -> PhysRange {
        let end = ram.as_slice().iter().map(|range| range.end).max().unwrap_or(0);
        let start = ram.as_slice().iter().map(|range| range.start).min().unwrap_or(0);
        if start < DRAM.start {
            return PhysRange::default();
        }
        PhysRange { start: DRAM.start, end: align_up(end, DRAM_STEP).max(align_up(end, BLOCK)) }
    }

    /// Opens the screen: from here on it shows what is printed, also about an FDT that is refused.
    fn on_fdt(blob: &[u8]) {
        match framebuffer::find(blob) {
            Some(BootScreen::Console(framebuffer)) => console::open_screen(framebuffer),
            Some(BootScreen::Memory(memory)) if !memory.overlaps(&image::range()) => {
                console::keep_screen(memory)
            }
            Some(BootScreen::Memory(_)) | None => {}
        }
    }
}
