//! Exclusives without progress: when the bounce pages of their page are dropped.
//!
//! A load-exclusive of a trapped page is stepped up to its store-exclusive. If that is not
//! possible, the CPU's own pair fails every time, without a trap, and the guest retries forever. A
//! CPU that waits for a word to change also executes load-exclusives without a store-exclusive, but
//! it makes progress. A load-exclusive therefore counts only if:
//! - the same instruction loaded the same value from the same address before, and so did each
//!   load-exclusive since that did not wait;
//! - and, after too many of them, a store-exclusive follows the point where stepping ended
//!   ([`store_is_ahead`]).

use oche_types::addr::Gfn;

use crate::instruction::{self, Operation};

/// How the sequence after a load-exclusive of a trapped page ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceOutcome {
    /// Its store-exclusive was emulated, whether it succeeded or not.
    Emulated,
    /// No store-exclusive was found, for a reason that will not go away: the state of the CPU, or
    /// too many instructions.
    Hopeless,
    /// It ended at an instruction after which a store-exclusive may follow.
    Open,
    /// It ended at an instruction that waits or clears the monitor, so no store-exclusive depends
    /// on it.
    Waits,
}

/// One load-exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// The trapped page.
    pub page: Gfn,
    /// The instruction's virtual address.
    pub pc: u64,
    /// The virtual address that it loaded from.
    pub address: u64,
    /// The loaded value, if it is known.
    pub values: Option<[u64; 2]>,
}

/// The weight of each outcome, and the limit: 256 without hope, or 65 536 whose end is open.
const HOPELESS: u32 = 256;
const OPEN: u32 = 1;
const LIMIT: u32 = 256 * HOPELESS;

/// Instructions that may lie between a pair that the architecture lets expect to succeed: 128
/// bytes. Source: Arm ARM DDI 0487, "Load-Exclusive and Store-Exclusive instruction usage
/// restrictions".
pub const MAX_APART: usize = 32;

/// How a sequence ends at `word`, which is neither a store-exclusive nor plain.
pub fn end_at(word: u32) -> SequenceOutcome {
    // Another load-exclusive begins a new sequence: the first had no store-exclusive.
    let is_load =
        instruction::decode(word).is_some_and(|access| access.kind == Operation::LoadExclusive);
    if is_load || instruction::is_wait(word) || instruction::gives_up_monitor(word) {
        SequenceOutcome::Waits
    } else {
        SequenceOutcome::Open
    }
}

/// Whether there is a store-exclusive among `words`, the instructions from the end of the sequence
/// on. If the guest has branched out of a pair, there is none.
pub fn store_is_ahead(words: impl IntoIterator<Item = u32>) -> bool {
    words.into_iter().take(MAX_APART).any(instruction::is_store_exclusive)
}

/// One CPU's load-exclusives since the last progress.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    last: Option<Load>,
    weight: u32,
}

impl Progress {
    /// Creates a record without any.
    pub const fn new() -> Self {
        Self { last: None, weight: 0 }
    }

    /// Records the outcome of `load`. Returns whether its page's bounce pages must be dropped.
    /// `may_store` returns whether a store-exclusive may still follow; it is called only after too
    /// many.
    #[must_use]
    pub fn note(
        &mut self,
        load: Load,
        outcome: SequenceOutcome,
        may_store: impl FnOnce() -> bool,
    ) -> bool {
        let weight = match outcome {
            SequenceOutcome::Emulated => {
                *self = Self::new();
                return false;
            }
            SequenceOutcome::Waits => return false,
            SequenceOutcome::Hopeless => HOPELESS,
            SequenceOutcome::Open => OPEN,
        };
        if self.last != Some(load) {
            *self = Self { last: Some(load), weight: 0 };
        }
        self.weight += weight;
        if self.weight < LIMIT {
            return false;
        }
        *self = Self::new();
        may_store()
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

    const LOAD: Load = Load { page: Gfn(1), pc: 0x1000, address: 0x2000, values: Some([7, 0]) };

    fn needed(loads: impl Fn(u32) -> (Load, SequenceOutcome)) -> Option<u32> {
        let mut progress = Progress::new();
        (1..200_000).find(|number| {
            let (load, outcome) = loads(*number);
            progress.note(load, outcome, || true)
        })
    }

    #[test]
    fn pairs_that_cannot_succeed_give_the_copies_up() {
        assert_eq!(needed(|_| (LOAD, SequenceOutcome::Hopeless)), Some(256));
        assert_eq!(needed(|_| (LOAD, SequenceOutcome::Open)), Some(65_536));
    }

    #[test]
    fn a_cpu_that_waits_or_gets_on_keeps_the_copies() {
        assert_eq!(needed(|_| (LOAD, SequenceOutcome::Waits)), None);
        assert_eq!(needed(|_| (LOAD, SequenceOutcome::Emulated)), None);
        let outcome = |number| {
            if number % 200 == 0 { SequenceOutcome::Emulated } else { SequenceOutcome::Hopeless }
        };
        assert_eq!(needed(|number| (LOAD, outcome(number))), None);
    }

    #[test]
    fn a_wait_between_the_attempts_does_not_hide_them() {
        let waiting = Load { pc: 0x1040, ..LOAD };
        let attempt = |number| match number % 2 {
            0 => (waiting, SequenceOutcome::Waits),
            _ => (LOAD, SequenceOutcome::Hopeless),
        };
        assert_eq!(needed(attempt), Some(511));
    }

    #[test]
    fn a_load_that_differs_from_the_last_one_is_progress() {
        let changed = |number: u32| {
            let number = u64::from(number);
            [
                Load { values: Some([number, 0]), ..LOAD },
                Load { pc: LOAD.pc + 4 * (number & 1), ..LOAD },
                Load { address: LOAD.address + 4 * (number & 1), ..LOAD },
            ]
        };
        for which in 0..3 {
            for outcome in [SequenceOutcome::Open, SequenceOutcome::Hopeless] {
                assert_eq!(
                    needed(|number| (changed(number)[which], outcome)),
                    None,
                    "{which} {outcome:?}"
                );
            }
        }
    }

    #[test]
    fn a_wait_whose_store_exclusive_was_passed_keeps_the_copies() {
        let mut progress = Progress::new();
        assert!((0..200_000).all(|_| !progress.note(LOAD, SequenceOutcome::Open, || false)));
    }

    /// How a sequence ends that goes on with `words`, none of them a store-exclusive, one after the
    /// other.
    fn end_of(words: &[u32]) -> Option<SequenceOutcome> {
        words.iter().copied().find(|word| !instruction::is_plain(*word)).map(end_at)
    }

    #[test]
    fn ordinary_waits_end_without_weight() {
        for wait in [
            [0xca01_0042_u32, 0xb500_0042, 0xd503_205f], // eor x2, x2, x1; cbnz x2, .+8; wfe
            [0x35ff_ffe0, 0x885f_fc20, 0],               // cbnz w0, .-4; ldaxr w0, [x1]
            [0x3400_0060, 0xd503_203f, 0x17ff_fffd],     // cbz w0, .+12; yield; b .-12
            [0xeb01_005f, 0x5400_0040, 0xd503_3f5f],     // cmp x2, x1; b.eq .+8; clrex
        ] {
            assert_eq!(end_of(&wait), Some(SequenceOutcome::Waits), "{wait:x?}");
        }
        for open in [
            // add x0, x0, #1; ldr x1, [x2]; stxr w2, x0, [x1]
            [0x9100_0400_u32, 0xf940_0041, 0xc802_7c20],
            // add x0, x0, #1; mrs x0, daif; stxr w2, x0, [x1]
            [0x9100_0400, 0xd53b_4220, 0xc802_7c20],
        ] {
            assert_eq!(end_of(&open), Some(SequenceOutcome::Open), "{open:x?}");
        }
    }

    #[test]
    fn only_a_store_exclusive_near_by_and_ahead_may_follow() {
        let (other, store) = (0xf940_0041_u32, 0xc802_7c20_u32);
        let behind = |others: usize| core::iter::repeat_n(other, others).chain([store]);
        assert!(store_is_ahead(behind(0)) && store_is_ahead(behind(MAX_APART - 1)));
        assert!(!store_is_ahead(behind(MAX_APART)) && !store_is_ahead([other, 0xc85f_7c41]));
        // stxp w0, x2, x3, [x1] and stlxrb w0, w2, [x1].
        assert!(store_is_ahead([0xc820_0c22]) && store_is_ahead([0x0800_fc22]));
    }

    #[test]
    fn each_page_is_counted_for_itself() {
        let of = |page| Load { page: Gfn(page), ..LOAD };
        let mut progress = Progress::new();
        assert!((0..100_000).all(|number| !progress.note(
            of(number & 1),
            SequenceOutcome::Hopeless,
            || true
        )));
        assert!((0..255).all(|_| !progress.note(of(7), SequenceOutcome::Hopeless, || true)));
        assert!(progress.note(of(7), SequenceOutcome::Hopeless, || true));
        assert!(
            !progress.note(of(7), SequenceOutcome::Hopeless, || true),
            "and afterwards from the beginning"
        );
    }
}
