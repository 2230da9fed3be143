//! Invariants: what the engine's own code guarantees. One that is broken stops the machine, in
//! every build, with its name.
//!
//! What a guest or a device may do is never an invariant: that is answered, or refused with a
//! reason.

/// Stops the machine unless the condition holds. The text names the invariant.
#[macro_export]
macro_rules! invariant {
    ($condition:expr, $($name:tt)+) => {
        assert!($condition, "invariant: {}", format_args!($($name)+))
    };
}

/// What is there because of an invariant.
pub trait Invariant<T> {
    /// The value; stops the machine with the invariant's name where there is none.
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
