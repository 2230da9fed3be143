//! Counters of the exits of each CPU, by kind.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use oche_trace::statistics::{Exit, INJECTED, TLB_BROADCASTS};

use crate::lock::Once;

/// The counters of one CPU, in the order of [`Exit::NAMES`].
#[derive(Debug, Default)]
pub struct Counters {
    /// Used if there is no trace directory.
    own: [AtomicU64; Exit::NAMES.len()],
    directory: Once<&'static [AtomicU64; Exit::NAMES.len()]>,
}

impl Counters {
    /// All zero.
    pub const fn new() -> Self {
        Self { own: [const { AtomicU64::new(0) }; Exit::NAMES.len()], directory: Once::new() }
    }

    /// Counts in `words` of the trace directory from now on, where readers see each change at once.
    /// Call once, before the CPU enters the guest.
    pub fn count_in(&self, words: &'static [AtomicU64]) {
        let words = words.first_chunk();
        self.directory.set(words.expect("invariant: each kind of exit has a counter"));
    }

    /// Counts an exception that was taken from the guest. Call once for each.
    #[inline]
    pub fn count(&self, exit: Exit) {
        self.add_one(exit as usize);
    }

    /// Counts an exception that was injected into the guest.
    pub fn count_injected(&self) {
        self.add_one(INJECTED);
    }

    /// Counts a TLB invalidation that reaches all CPUs.
    pub fn count_tlb_broadcast(&self) {
        self.add_one(TLB_BROADCASTS);
    }

    /// Only the CPU itself writes its counters, and no other access is ordered by them, so no
    /// atomic addition is needed.
    #[inline]
    fn add_one(&self, place: usize) {
        let counter = self.all().get(place).expect("invariant: each kind of exit has a counter");
        counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    #[inline]
    fn all(&self) -> &[AtomicU64; Exit::NAMES.len()] {
        self.directory.get().copied().unwrap_or(&self.own)
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, counter) in Exit::NAMES.iter().zip(self.all()) {
            let name = name.strip_prefix("exits_").unwrap_or(name);
            write!(out, " {name} {}", counter.load(Ordering::Relaxed))?;
        }
        Ok(())
    }
}
