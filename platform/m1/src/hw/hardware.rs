//! The DARTs' registers and power domains, mapped for EL2.

use alloc::vec::Vec;

use crate::darts::hardware::{BusError, Hardware};
use crate::device_tree::{DartNode, candidates};
use crate::power::Power;
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable};
use oche_boot::bare::memory;
use oche_el2::mmio;
use oche_types::dart::registers::REGION_BYTES;
use oche_types::dart::stream::DartId;

use super::power::PowerDomains;

/// Registers that EL2 maps and stage 2 does not: only Oche accesses them.
#[derive(Debug)]
pub struct MappedDarts {
    /// By DART: its registers, and its power domains.
    darts: Vec<(u64, PowerDomains)>,
}

impl MappedDarts {
    /// Maps the registers of every DART that Oche may emulate. Accesses none.
    pub fn map(all: &[DartNode]) -> Self {
        let darts = candidates(all).map(|(_, dart)| {
            memory::map_registers(dart.registers);
            (dart.registers.start, PowerDomains::map(dart.power.clone()))
        });
        Self { darts: darts.collect() }
    }

    /// The registers of the DART's power domains, as they are now.
    pub fn power_words(&self, dart: DartId) -> impl Iterator<Item = u32> {
        let (_, domains) = self.dart(dart);
        domains.words()
    }

    fn register(&self, dart: DartId, offset: u64) -> u64 {
        assert!(offset < REGION_BYTES && offset.is_multiple_of(4), "a DART's register");
        let (start, _) = self.dart(dart);
        start + offset
    }

    fn dart(&self, dart: DartId) -> &(u64, PowerDomains) {
        self.darts.get(dart.index()).expect("invariant: the driver names DARTs that it was given")
    }
}

fn bus_error(dart: DartId, error: &mmio::BusError) -> BusError {
    mmio::report(&format_args!("DART {}", dart.index()), error);
    BusError
}

// SAFETY: each register access is one load or store of the DART that is named, and each barrier is
// the instruction that the trait asks for.
unsafe impl Hardware for MappedDarts {
    fn read(&self, dart: DartId, offset: u64) -> Result<u32, BusError> {
        // SAFETY: `map` mapped it as Device memory.
        unsafe { mmio::read32(self.register(dart, offset)) }
            .map_err(|error| bus_error(dart, &error))
    }

    fn write(&mut self, dart: DartId, offset: u64, value: u32) -> Result<(), BusError> {
        // SAFETY: as for `read`.
        unsafe { mmio::write32(self.register(dart, offset), value) }
            .map_err(|error| bus_error(dart, &error))
    }

    /// `mmio` completes all stores, for the full system, before each access: the walk that follows
    /// a command finds them. No source documents the shareability domain of a DART.
    fn complete_stores(&mut self) {}

    /// `mmio` completes each access, for the full system, before any that follows: what devices
    /// wrote before the DART cleared BUSY is seen by the loads after that.
    fn order_loads(&mut self) {}

    fn power(&self, dart: DartId) -> Power {
        let (_, domains) = self.dart(dart);
        domains.power()
    }

    fn ticks(&self) -> u64 {
        CNTPCT_EL0.get()
    }

    fn ticks_per_millisecond(&self) -> u64 {
        CNTFRQ_EL0.get() / 1000
    }
}
