//! Exclusives that get nowhere: when the copies of their page are given up.
//!
//! A load-exclusive of a guarded page is followed, step by step, to its store-exclusive. Where that cannot be done, the
//! CPU's own pair fails every time, without a trap, and the guest tries for ever. What does not need to be a
//! pair, a CPU that waits for a word to change, looks much alike; so it takes many.

use oche_hyp::addr::Gfn;

/// How a load-exclusive of a guarded page went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its store-exclusive was emulated, whether it stored or another CPU was first.
    Emulated,
    /// No store-exclusive was found, for a reason that will not go away: the state of the CPU, or too many instructions.
    Hopeless,
    /// It ended in an instruction behind which there may be a store-exclusive.
    Open,
    /// It ended in something that waits.
    Waits,
}

/// What an outcome weighs, and how much is too much: 256 hopeless ones, or 65 536 that are open.
const HOPELESS: u32 = 256;
const OPEN: u32 = 1;
const LIMIT: u32 = 256 * HOPELESS;

/// One CPU's load-exclusives since one of them last got on.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    page: Option<Gfn>,
    weight: u32,
}

impl Progress {
    /// There were none.
    pub const fn new() -> Self {
        Self { page: None, weight: 0 }
    }

    /// A load-exclusive of `page` ended. Returns whether the page's copies are to be given up.
    #[must_use]
    pub fn note(&mut self, page: Gfn, outcome: Outcome) -> bool {
        if self.page != Some(page) {
            *self = Self { page: Some(page), weight: 0 };
        }
        self.weight += match outcome {
            Outcome::Emulated => {
                *self = Self::new();
                0
            }
            Outcome::Hopeless => HOPELESS,
            Outcome::Open => OPEN,
            Outcome::Waits => 0,
        };
        let is_too_much = self.weight >= LIMIT;
        if is_too_much {
            *self = Self::new();
        }
        is_too_much
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(outcomes: impl Fn(u32) -> Outcome) -> Option<u32> {
        let mut progress = Progress::new();
        (1..200_000).find(|number| progress.note(Gfn(1), outcomes(*number)))
    }

    #[test]
    fn pairs_that_cannot_succeed_give_the_copies_up() {
        assert_eq!(needed(|_| Outcome::Hopeless), Some(256));
        assert_eq!(needed(|_| Outcome::Open), Some(65_536));
    }

    #[test]
    fn a_cpu_that_waits_or_gets_on_keeps_the_copies() {
        assert_eq!(needed(|_| Outcome::Waits), None);
        assert_eq!(needed(|_| Outcome::Emulated), None);
        assert_eq!(
            needed(|number| if number % 200 == 0 { Outcome::Emulated } else { Outcome::Hopeless }),
            None
        );
    }

    #[test]
    fn each_page_is_counted_for_itself() {
        let mut progress = Progress::new();
        assert!((0..100_000).all(|number| !progress.note(Gfn(number & 1), Outcome::Hopeless)));
        assert!((0..255).all(|_| !progress.note(Gfn(7), Outcome::Hopeless)));
        assert!(progress.note(Gfn(7), Outcome::Hopeless));
        assert!(!progress.note(Gfn(7), Outcome::Hopeless), "and afterwards from the beginning");
    }
}
