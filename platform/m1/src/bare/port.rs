//! The interrupt of the trace's port.

use alloc::boxed::Box;
use core::ptr;

use oche_boot::bare::memory;
use oche_boot::tree::Tree;
use oche_m1::aic::{self, Line};
use oche_platform::port::SetInterrupt;

/// The line for it, whose registers are mapped; `None`, and said so, where the guest can have no
/// port.
pub(super) fn line(tree: &Tree<'_>) -> Option<Line> {
    let line = aic::free_line(tree);
    match &line {
        Some(line) => memory::map_registers(line.registers()),
        None => log::warn!("the trace has no port: the FDT names no apple,aic with a free line"),
    }
    line
}

/// How many lines the controller has, and whether the port's is one of them.
pub(super) fn lines(line: &Line) -> (u32, bool) {
    memory::map_registers(line.information());
    // SAFETY: mapped as Device memory; reading how many lines there are has no side effect.
    line.is_among(unsafe { ptr::read_volatile(line.info() as *const u32) })
}

/// Sets and clears it.
pub(super) fn interrupt(line: Line) -> SetInterrupt {
    Box::new(move |is_up| {
        let (register, word) = line.store(is_up);
        // SAFETY: `line` mapped the controller's registers as Device memory, and the controller is
        // always on. A bit of 0 changes nothing, so this does not meddle with what the guest does
        // there.
        unsafe { ptr::write_volatile(register as *mut u32, word) };
    })
}
