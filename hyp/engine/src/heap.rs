//! What the engine takes of the heap: each table has its number of bytes beside its constructor.

/// Bytes that `count` values of `T` in one piece take, as a buddy allocator rounds them.
pub(crate) const fn bytes_of<T>(count: usize) -> usize {
    match count * size_of::<T>() {
        0 => 0,
        bytes => bytes.next_power_of_two(),
    }
}
