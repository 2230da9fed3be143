//! The size of the engine's heap. Each table has a function for its bytes beside its constructor.

/// Bytes of one allocation of `count` values of `T`, as a buddy allocator rounds them.
pub(crate) const fn bytes_of<T>(count: usize) -> usize {
    match count * size_of::<T>() {
        0 => 0,
        bytes => bytes.next_power_of_two(),
    }
}
