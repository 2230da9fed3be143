//! Invariants: conditions that Oche's own code guarantees. A broken one stops the machine in every
//! build and prints its name.
//!
//! What a guest or a device does never breaks an invariant: it is handled, or refused with a
//! reason.

/// Stops the machine unless the condition holds. The text is the invariant's name.
#[macro_export]
macro_rules! invariant {
    ($condition:expr, $($name:tt)+) => {
        assert!($condition, "invariant: {}", format_args!($($name)+))
    };
}

/// A value that exists because of an invariant.
pub trait Invariant<T> {
    /// Returns the value. Stops the machine with the invariant's name if there is none.
    fn must(self, name: &'static str) -> T;
}

impl<T> Invariant<T> for Option<T> {
    #[inline]
    #[track_caller]
    fn must(self, name: &'static str) -> T {
        match self {
            Some(value) => value,
            None => broken(name),
        }
    }
}

#[cold]
#[inline(never)]
#[track_caller]
fn broken(name: &str) -> ! {
    panic!("invariant: {name}")
}
