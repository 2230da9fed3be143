//! Extending EL2's own map of memory and registers, and raw access to mapped memory.

use oche_el2::failure::Failure;
use oche_el2::firmware::fatal;
use oche_types::range::{PAGE, PhysRange, RangeList};

use crate::bare::stage1::{self, CannotMap, Use};
use crate::layout::LayoutError;

/// Maps a framebuffer, which is outside RAM, for Oche's own use.
///
/// # Errors
///
/// [`CannotMap`]; then there is no screen.
pub fn map_screen(range: PhysRange) -> Result<(), CannotMap> {
    // SAFETY: boot CPU, alone; the caller names a framebuffer, and writes are all that is done to
    // it.
    unsafe { stage1::map(range.grown_to(PAGE), Use::Screen) }
}

/// Maps registers for Oche's own use.
pub fn map_registers(range: PhysRange) {
    // SAFETY: boot CPU, alone; registers are Device memory. The caller names registers.
    if unsafe { stage1::map(range.grown_to(PAGE), Use::Device) }.is_err() {
        fatal(Failure::OwnMap, format_args!("no room to map the registers at {range}"));
    }
}

/// Maps RAM, or what firmware describes as RAM.
pub(super) fn map_memory(range: PhysRange) {
    if try_map_memory(range).is_err() {
        fatal(Failure::OwnMap, format_args!("EL2 cannot map memory {range}"));
    }
}

/// As [`map_memory`].
///
/// # Errors
///
/// [`CannotMap`].
pub(super) fn try_map_memory(range: PhysRange) -> Result<(), CannotMap> {
    // SAFETY: boot CPU, alone. Ranges are those of RAM by the FDT, of the FDT as firmware gives it,
    // or of the packed image; what is mapped already, Oche's own image, stays as it is.
    unsafe { stage1::map(range, Use::Memory) }
}

/// Maps RAM except the image, which is mapped already: its stacks' guard pages must stay unmapped.
pub(super) fn map_ram(ram: &RangeList, image: PhysRange) {
    let mut outside = *ram;
    if outside.subtract(image).is_err() {
        fatal(Failure::Layout, format_args!("{}", LayoutError::TooManyRanges));
    }
    for range in outside.as_slice() {
        map_memory(range.grown_to(PAGE));
    }
}

/// Maps and clears the memory for further tables of EL2's map.
///
/// # Safety
///
/// Called once; `memory` is Oche's own and not in use.
pub(super) unsafe fn supply_tables(memory: PhysRange) {
    map_memory(memory);
    // SAFETY: the caller's promise; mapped above.
    unsafe { clear(memory) };
    // SAFETY: the same memory, used from here on by the map alone. Boot CPU, once.
    unsafe { stage1::supply(memory) };
}

/// Fills `memory` with zeros.
///
/// # Safety
///
/// `memory` is Oche's own, mapped and not in use.
pub(super) unsafe fn clear(memory: PhysRange) {
    // SAFETY: the caller's promise.
    unsafe { core::ptr::write_bytes(memory.start as *mut u8, 0, memory.size() as usize) };
}

/// The bytes of memory that firmware or the packer has filled.
pub(super) fn bytes(range: PhysRange) -> &'static [u8] {
    if range.is_empty() {
        return &[];
    }
    // SAFETY: in RAM, mapped, and nothing writes it before the guest runs; by then `Prepared` is
    // gone.
    unsafe { core::slice::from_raw_parts(range.start as *const u8, range.size() as usize) }
}

/// Copies `from` to host-physical `to`.
pub(super) fn copy(from: &[u8], to: u64) {
    // SAFETY: the layout keeps sources and destinations apart, and gives the destination to this
    // use alone.
    unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
}
