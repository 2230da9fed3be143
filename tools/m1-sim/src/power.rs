//! The board's power manager: the domains that its DARTs are in.
//!
//! A domain reaches the requested state at once. One that may gate its clock by itself
//! (`AUTO_ENABLE`) reads as gated, since nothing uses it at the moment of the read. Source of
//! the bits: Linux `drivers/pmdomain/apple/pmgr-pwrstate.c`.

use super::memory::BoardMemory;

const RESET: u32 = 1 << 31;
const AUTO_ENABLE: u32 = 1 << 28;
const DEV_DISABLE: u32 = 1 << 10;
/// Bits that are set once the clock or the power has been gated.
const WAS_GATED: u32 = 0b11 << 8;
const ACTIVE: u32 = 0xf;
const CLOCK_GATED: u32 = 0x4;

/// The supply of a device, by the state of its domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supply {
    /// It works.
    On,
    /// It keeps its state, answers no access and does nothing.
    Held,
    /// It has lost its state, answers no access and does nothing.
    Off,
}

/// One power domain.
#[derive(Clone, Copy, Debug)]
pub struct SimulatedPowerDomain {
    /// Its register's address.
    pub register: u64,
    value: u32,
}

impl SimulatedPowerDomain {
    /// Puts the register of a domain that is on or off into the board's memory.
    #[must_use]
    pub fn new(memory: &BoardMemory, register: u64, is_on: bool) -> Self {
        let value = if is_on { ACTIVE << 4 | ACTIVE } else { 0 };
        memory.set_word(register, value);
        Self { register, value }
    }

    /// Models a write of the register.
    pub fn written(&mut self, memory: &BoardMemory) -> Supply {
        let value = memory.word(self.register);
        let target = value & 0xf;
        let is_gated = target == ACTIVE && value & AUTO_ENABLE != 0;
        let actual = if is_gated { CLOCK_GATED } else { target };
        // These bits stay set until 1 is written to them.
        let was_gated = self.value & WAS_GATED & !value | u32::from(is_gated) << 9;
        self.value = value & !(0xf0 | WAS_GATED) | was_gated | actual << 4;
        memory.set_word(self.register, self.value);
        self.supply()
    }

    /// The supply of the devices in it.
    #[must_use]
    pub fn supply(&self) -> Supply {
        let (target, actual) = (self.value & 0xf, self.value >> 4 & 0xf);
        if actual == 0 || target == ACTIVE && self.value & RESET != 0 {
            Supply::Off
        } else if target == ACTIVE && self.value & DEV_DISABLE == 0 {
            Supply::On
        } else {
            Supply::Held
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{SimulatedPowerDomain, Supply};
    use crate::memory::BoardMemory;

    const REGISTER: u64 = 0x2_3b70_03e8;

    #[test]
    fn a_domain_is_in_the_state_that_was_asked_for() {
        let memory = BoardMemory::create().expect("a file");
        let mut domain = SimulatedPowerDomain::new(&memory, REGISTER, true);
        assert_eq!((domain.supply(), memory.word(REGISTER)), (Supply::On, 0xff));
        for (stored, reads, supply) in [
            (0x1000_00ff, 0x1000_024f, Supply::On),
            (0x1000_000f, 0x1000_024f, Supply::On),
            (0x0000_0004, 0x0000_0244, Supply::Held),
            (0x1000_040f, 0x1000_064f, Supply::Held),
            (0x8000_000f, 0x8000_02ff, Supply::Off),
            (0x0000_0000, 0x0000_0200, Supply::Off),
            (0x0000_030f, 0x0000_00ff, Supply::On),
        ] {
            memory.set_word(REGISTER, stored);
            assert_eq!(domain.written(&memory), supply, "{stored:#x}");
            assert_eq!(memory.word(REGISTER), reads, "{stored:#x}");
        }
    }
}
