//! Fixups: which exceptions at EL2 are bus errors of its own accesses to devices, and where
//! execution continues after them.

/// A range of EL2's code that may take an exception, and where execution continues afterwards. All
/// are addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixup {
    /// The first instruction.
    pub start: u64,
    /// After the last one.
    pub end: u64,
    /// Where execution continues.
    pub resume: u64,
}

/// Where execution continues after an exception at `address`, or `None` if none of `fixups` covers
/// it.
pub fn resume(fixups: impl IntoIterator<Item = Fixup>, address: u64) -> Option<u64> {
    let fixup = fixups.into_iter().find(|fixup| (fixup.start..fixup.end).contains(&address))?;
    Some(fixup.resume)
}

/// Whether `syndrome` is that of a synchronous external abort of a load or a store at EL2, not on a
/// table walk. Source: Arm ARM DDI 0487, `ESR_EL2`: EC 0x25, DFSC 0b010000.
pub fn is_external_abort(syndrome: u64) -> bool {
    syndrome >> 26 & 0x3f == 0x25 && syndrome & 0x3f == 0x10
}

/// How an access that took no abort ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The device answered.
    Done,
    /// The access made an SError pending.
    SystemError,
    /// An SError was pending before, so one that the access caused cannot be distinguished.
    Unknown,
}

/// `ISR_EL1.A`: an SError is pending.
const ISR_A: u64 = 1 << 8;

/// How an access ended, from `ISR_EL1` right before it and right after it.
pub fn ending(before: u64, after: u64) -> Ending {
    match (before & ISR_A != 0, after & ISR_A != 0) {
        // Also if it is not pending any more: EL2 did not take it, so nothing can be concluded.
        (true, _) => Ending::Unknown,
        (false, true) => Ending::SystemError,
        (false, false) => Ending::Done,
    }
}

/// Whether `isr`, a value of `ISR_EL1`, has an SError pending.
pub fn has_system_error(isr: u64) -> bool {
    isr & ISR_A != 0
}

#[cfg(test)]
mod tests {
    use super::{Ending, Fixup, ending, is_external_abort, resume};

    #[test]
    fn a_pending_system_error_hides_no_bus_error() {
        // IRQ and FIQ, which do not matter.
        for others in [0, 0xc0] {
            let (none, pending) = (others, others | 0x100);
            assert_eq!(ending(none, none), Ending::Done);
            assert_eq!(ending(none, pending), Ending::SystemError);
            assert_eq!(ending(pending, pending), Ending::Unknown);
            assert_eq!(ending(pending, none), Ending::Unknown);
        }
    }

    #[test]
    fn only_an_instruction_with_a_fixup_is_resumed() {
        let fixups =
            [Fixup { start: 8, end: 12, resume: 40 }, Fixup { start: 16, end: 28, resume: 44 }];
        for (address, expected) in [(8, Some(40)), (16, Some(44)), (24, Some(44))] {
            assert_eq!(resume(fixups, address), expected);
        }
        for address in [0, 4, 12, 28, u64::MAX] {
            assert_eq!(resume(fixups, address), None);
        }
        assert_eq!(resume([], 8), None);
    }

    #[test]
    fn only_an_external_abort_of_the_access_itself_is_a_bus_error() {
        for (syndrome, expected) in [
            (0x9600_0010, true),
            (0x9600_0050, true),
            // A translation fault, an external abort on a walk, one of the guest's, of a fetch, and
            // an SError.
            (0x9600_0007, false),
            (0x9600_0014, false),
            (0x9200_0010, false),
            (0x8600_0010, false),
            (0xbe00_0010, false),
        ] {
            assert_eq!(is_external_abort(syndrome), expected, "{syndrome:#x}");
        }
    }
}
