//! The composition root.
// UNSAFETY: device registers are raw addresses, and this is who knows which are where.
#![expect(unsafe_code, reason = "device registers are raw addresses")]

mod console;
mod watchdog;

use oche_boot::bare::entry::FdtAddress;
use oche_boot::bare::firmware::fatal;
use oche_boot::bare::launch::Board;
use oche_boot::bare::{apple, launch, panic};
use oche_boot::machine::Machine;
use oche_boot::range::{BLOCK, PhysRange, RangeList, align_up};
use oche_m1::framebuffer;

/// What the root node of every M1 Mac's device tree is compatible with.
const COMPATIBLE: &str = "apple,t8103";
/// Where DRAM begins. Source: m1n1 `src/kboot.c`; Asahi documentation `hw/soc/memmap.md`.
const DRAM: u64 = 0x8_0000_0000;
/// What the end of DRAM is a multiple of, in bytes: every M1 has 8 or 16 GiB.
const DRAM_STEP: u64 = 1 << 30;

oche_boot::entry!(main, "m1");

fn main(fdt: FdtAddress) -> ! {
    console::begin();
    log::info!("Oche {} on m1", env!("CARGO_PKG_VERSION"));
    let board = Board { engine_bytes, around_ram, reserves_image: true, meet };
    let prepared = launch::prepare(fdt, board);
    if !prepared.machine.has_compatible(COMPATIBLE) {
        fatal(format_args!("this is no M1: the FDT names no {COMPATIBLE}"));
    }
    if !apple::is_apple() {
        log::info!("the CPU is not Apple's: its own registers stay untouched");
    }
    launch::map_registers(watchdog::REGISTERS);
    if prepared.options.panic_resets {
        panic::set_end(watchdog::reset);
    }
    prepared.stage2(&[]);
    prepared.launch(None)
}

/// As soon as the FDT has been read: who has no serial cable sees from here on what is said.
fn meet(machine: &Machine<'static>) {
    if let Some(framebuffer) = framebuffer::find(machine.tree()) {
        console::open_screen(framebuffer);
    }
}

/// From the first byte of DRAM to the last, RAM apart: firmware's carve-outs.
fn around_ram(ram: &RangeList) -> PhysRange {
    let end = ram.as_slice().iter().map(|range| range.end).max().unwrap_or(0);
    let start = ram.as_slice().iter().map(|range| range.start).min().unwrap_or(0);
    if start < DRAM {
        return PhysRange::default();
    }
    PhysRange { start: DRAM, end: align_up(end, DRAM_STEP).max(align_up(end, BLOCK)) }
}

fn engine_bytes(_: u64, _: u64) -> u64 {
    0
}
