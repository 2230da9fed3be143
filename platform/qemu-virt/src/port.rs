//! The address and interrupt of the trace port.

use oche_types::range::PhysRange;
use oche_virtio::console::REGION_BYTES;

/// Its registers: after the DARTs', where virt has nothing (QEMU 7.2, `hw/arm/virt.c`, memory map).
/// They have a page of their own, so that nothing else traps.
pub const WINDOW: PhysRange = PhysRange { start: 0x0918_0000, end: 0x0918_1000 };
/// Its shared peripheral interrupt: virt drives those up to 175. Source: the same, `irqmap` and
/// `VIRT_PLATFORM_BUS`.
pub const INTERRUPT: u32 = 200;

const _: () = assert!(WINDOW.end - WINDOW.start >= REGION_BYTES);
