//! The size of the engine's heap. Each table has a function for its bytes beside its constructor.

use oche_types::addr::PAGE_BYTES;

/// The least bytes of an allocation that EL2's heap takes in whole pages. A smaller one is a block
/// of a buddy allocator, whose size is a power of two.
pub const ARRAY_BYTES: usize = 1 << 20;

/// A part of the engine's heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeapPart {
    /// What it holds.
    pub name: &'static str,
    /// Its bytes, as EL2's heap rounds them.
    pub bytes: usize,
}

/// The bytes that EL2's heap takes for an allocation of `bytes` bytes.
pub const fn rounded(bytes: usize) -> usize {
    if bytes == 0 {
        0
    } else if bytes >= ARRAY_BYTES {
        bytes.next_multiple_of(PAGE_BYTES)
    } else {
        bytes.next_power_of_two()
    }
}

/// Bytes of one allocation of `count` values of `T`.
pub(crate) const fn bytes_of<T>(count: usize) -> usize {
    rounded(count * size_of::<T>())
}
