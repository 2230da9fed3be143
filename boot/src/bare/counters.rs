//! How often each CPU came out of the guest, and why.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Exit {
    /// A stage-2 fault that went to the platform.
    Platform,
    /// A page in motion, or one that was made meanwhile.
    Retry,
    /// The first fetch from a page that has moved.
    Execute,
    /// HVC.
    HypervisorCall,
    /// SMC.
    MonitorCall,
    /// A FIQ of the guest's, with `oche.fiq=virtual`.
    Fiq,
    /// A look whether the guest has dealt with its timer: the same.
    Poll,
    /// A system register.
    Register,
    /// Anything else.
    Other,
    /// Of all these, how many ended in an abort or an undefined instruction for the guest.
    Injected,
}

/// Names, in the order of [`Exit`].
pub const NAMES: [&str; 10] =
    ["device", "retry", "execute", "hvc", "smc", "fiq", "poll", "register", "other", "injected"];

/// One CPU's counts.
#[derive(Debug, Default)]
pub struct Counters([AtomicU64; NAMES.len()]);

impl Counters {
    /// All zero.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; NAMES.len()])
    }

    /// Counts one. Relaxed: a count orders nothing.
    pub fn count(&self, exit: Exit) {
        if let Some(counter) = self.0.get(exit as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The count.
    pub fn get(&self, exit: Exit) -> u64 {
        self.0.get(exit as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, counter) in NAMES.iter().zip(&self.0) {
            write!(out, " {name} {}", counter.load(Ordering::Relaxed))?;
        }
        Ok(())
    }
}
