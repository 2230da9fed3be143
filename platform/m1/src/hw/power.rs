//! The power domains of a device, by the power manager's registers.

use alloc::vec::Vec;
use core::ptr;

use crate::power::Power;
use oche_boot::bare::memory;
use oche_types::range::{PAGE, PhysRange};

/// The registers of a device's power domains.
#[derive(Debug)]
pub struct PowerDomains(Vec<u64>);

impl PowerDomains {
    /// Maps `registers`.
    pub fn map(registers: Vec<u64>) -> Self {
        for register in &registers {
            memory::map_registers(PhysRange { start: *register, end: register + 4 }.grown_to(PAGE));
        }
        Self(registers)
    }

    /// Whether the device may be accessed now. The guest may change that at any moment.
    pub fn power(&self) -> Power {
        Power::of_all(self.words().map(Power::from_register))
    }

    /// The registers, as they are now.
    pub fn words(&self) -> impl Iterator<Item = u32> {
        // SAFETY: `map` mapped it as Device memory; the power manager itself is always on.
        self.0.iter().map(|register| unsafe { ptr::read_volatile(*register as *const u32) })
    }
}
