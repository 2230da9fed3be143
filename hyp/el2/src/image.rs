//! The memory of Oche's image, from the symbols of the linker script.
#![expect(unsafe_code, reason = "symbols of the linker script")]

use oche_types::range::PhysRange;

unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
    static __stacks_start: u8;
    static __stacks_end: u8;
}

/// The memory of Oche's image, including the stacks.
pub fn range() -> PhysRange {
    PhysRange { start: (&raw const __image_start) as u64, end: (&raw const __image_end) as u64 }
}

/// All stack slots.
pub fn stacks() -> PhysRange {
    PhysRange { start: (&raw const __stacks_start) as u64, end: (&raw const __stacks_end) as u64 }
}
