//! The outcome of a step: the guest's instruction was executed, took an exception to EL1, or
//! returned from one.

#[cfg(target_os = "none")]
pub(crate) mod hw;

/// The outcome of a step, as EL1 and EL0 observe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// No exception level changed: the instruction was executed, or not.
    SameLevel,
    /// An exception was taken to EL1.
    Entry,
    /// EL1 returned to EL0 or to itself, by an `ERET` that another CPU stored meanwhile.
    Return,
}

/// The state of a CPU that a step changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepState {
    /// The exception level.
    pub level: u64,
    /// The address of the next instruction.
    pub pc: u64,
}

/// The value of `ELR_EL1` during a step at EL1 of the instruction at `pc`. No exception taken in
/// the step stores this value, because exceptions store the address of the instruction or of the
/// next one. Only an `ERET` continues there.
pub fn sentinel(pc: u64) -> u64 {
    pc.wrapping_add(2)
}

/// The outcome of a step from `before` to `now`, with `elr_el1` in `ELR_EL1` afterwards. In a step
/// at EL1 the masks in `SPSR_EL1` must have been set, so that no exception was taken after an
/// `ERET`.
pub fn outcome(before: StepState, now: StepState, elr_el1: u64) -> StepOutcome {
    match (before.level != 0, now.level != 0) {
        (false, true) => StepOutcome::Entry,
        (true, true) if elr_el1 != sentinel(before.pc) => StepOutcome::Entry,
        (true, false) => StepOutcome::Return,
        (true, true) if now.pc == sentinel(before.pc) => StepOutcome::Return,
        (true, true) | (false, false) => StepOutcome::SameLevel,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PC: u64 = 0x1000;
    const VECTOR: u64 = 0x8280;
    const MASKS: u64 = 0x1c0;

    /// EL1 as far as a step needs it.
    struct Cpu {
        state: StepState,
        masks: u64,
        elr_el1: u64,
        spsr_el1: u64,
    }

    impl Cpu {
        fn eret(&mut self) {
            self.state = StepState { level: self.spsr_el1 >> 2 & 3, pc: self.elr_el1 };
            self.masks = self.spsr_el1 & MASKS;
        }

        fn interrupt(&mut self) {
            if self.masks & 0x80 == 0 {
                (self.elr_el1, self.spsr_el1) = (self.state.pc, self.state.level << 2 | self.masks);
                (self.state, self.masks) = (StepState { level: 1, pc: VECTOR }, MASKS);
            }
        }
    }

    /// A step at EL1 whose instruction is an `ERET` to `level`, with an IRQ pending.
    fn outcome_of_return(level: u64, masks: u64) -> (StepOutcome, StepState) {
        let before = StepState { level: 1, pc: PC };
        let spsr_el1 = level << 2 | masks;
        let mut cpu = Cpu { state: before, masks: MASKS, elr_el1: sentinel(PC), spsr_el1 };
        cpu.eret();
        cpu.interrupt();
        (outcome(before, cpu.state, cpu.elr_el1), cpu.state)
    }

    #[test]
    fn an_interrupt_behind_a_return_is_held_back_by_the_masks() {
        for level in [0, 1] {
            let returned = StepState { level, pc: sentinel(PC) };
            assert_eq!(outcome_of_return(level, MASKS), (StepOutcome::Return, returned));
            // Without them the handler would look like an instruction that branches there.
            let handler = StepState { level: 1, pc: VECTOR };
            assert_eq!(outcome_of_return(level, 0), (StepOutcome::SameLevel, handler));
        }
    }

    #[test]
    fn an_exception_is_known_by_its_level_or_its_return_address() {
        let (user, kernel) = (StepState { level: 0, pc: PC }, StepState { level: 1, pc: PC });
        let handler = StepState { level: 1, pc: VECTOR };
        assert_eq!(outcome(user, handler, PC), StepOutcome::Entry);
        for address in [PC, PC + 4] {
            assert_eq!(outcome(kernel, handler, address), StepOutcome::Entry);
        }
    }

    #[test]
    fn an_instruction_stays_at_its_level() {
        for level in [0, 1] {
            for pc in [PC, PC + 4, 0x2000] {
                let before = StepState { level, pc: PC };
                assert_eq!(
                    outcome(before, StepState { level, pc }, sentinel(PC)),
                    StepOutcome::SameLevel
                );
            }
        }
    }
}
