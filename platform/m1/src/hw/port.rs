//! The interrupt of the trace's port.

use alloc::boxed::Box;
use core::ptr;

use crate::aic::{self, PortLine};
use oche_boot::bare::memory;
use oche_boot::tree::Tree;
use oche_platform::port::SetInterrupt;

/// The port's line, with its registers mapped; `None`, with a warning in the log, where the guest
/// can have no port.
pub fn line(tree: &Tree<'_>) -> Option<PortLine> {
    let line = aic::free_line(tree);
    match &line {
        Some(line) => memory::map_registers(line.registers()),
        None => log::warn!("the trace has no port: the FDT names no apple,aic with a free line"),
    }
    line
}

/// The number of lines of the controller, and whether the port's line is one of them.
pub fn lines(line: &PortLine) -> (u32, bool) {
    memory::map_registers(line.information());
    // SAFETY: mapped as Device memory; reading `INFO` has no side effect.
    line.is_among(unsafe { ptr::read_volatile(line.info() as *const u32) })
}

/// Asserts and deasserts the line.
pub fn interrupt(line: PortLine) -> SetInterrupt {
    Box::new(move |is_up| {
        let (register, word) = line.store(is_up);
        // SAFETY: `line` mapped the controller's registers as Device memory, and the controller is
        // always on. A bit of 0 changes nothing, so the lines that the guest uses stay as they are.
        unsafe { ptr::write_volatile(register as *mut u32, word) };
    })
}
