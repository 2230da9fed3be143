//! The DARTs' registers, and those that say whether they are on.

use alloc::vec::Vec;

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable};
use oche_boot::bare::{launch, mmio};
use oche_m1::darts::{BusError, Hardware};
use oche_m1::found::{Found, Power, mediated};
use oche_types::dart::registers::REGION_BYTES;
use oche_types::dart::stream::DartId;

use super::power::Domains;

/// Registers that EL2 maps: nobody else reaches them, since stage 2 does not map them.
#[derive(Debug)]
pub(super) struct Registers {
    /// By DART: its registers, and its power domains.
    darts: Vec<(u64, Domains)>,
}

impl Registers {
    /// Maps what the driver needs. Touches nothing.
    pub(super) fn map(all: &[Found]) -> Self {
        let darts = mediated(all).map(|(_, dart)| {
            launch::map_registers(dart.registers);
            (dart.registers.start, Domains::map(dart.power.clone()))
        });
        Self { darts: darts.collect() }
    }

    fn register(&self, dart: DartId, offset: u64) -> u64 {
        assert!(offset < REGION_BYTES && offset.is_multiple_of(4), "a DART's register");
        let (start, _) = self.darts.get(dart.index()).expect("the driver knows the DARTs that it was given");
        start + offset
    }
}

fn bus_error(dart: DartId, error: &mmio::BusError) -> BusError {
    mmio::report(&format_args!("DART {}", dart.index()), error);
    BusError
}

impl Hardware for Registers {
    fn read(&self, dart: DartId, offset: u64) -> Result<u32, BusError> {
        // SAFETY: `map` mapped it as Device memory.
        unsafe { mmio::read32(self.register(dart, offset)) }.map_err(|error| bus_error(dart, &error))
    }

    fn write(&mut self, dart: DartId, offset: u64, value: u32) -> Result<(), BusError> {
        // SAFETY: as for `read`.
        unsafe { mmio::write32(self.register(dart, offset), value) }.map_err(|error| bus_error(dart, &error))
    }

    /// `DSB ST`, of the full system, since no source says in which shareability domain a DART is. A DMB would order
    /// the stores for an observer of both; the walk that follows a command is the DART's own access, which begins when
    /// the register store has arrived, so the stores are complete before that store is made.
    /// Source: Arm ARM DDI 0487, "Data Synchronization Barrier (DSB)".
    fn complete_stores(&mut self) {
        barrier::dsb(barrier::ST);
    }

    /// `DMB LD`, of the full system: the loads before it, of registers too, before all loads and stores after it. The
    /// DART clears BUSY when the writes are seen, and nothing waits but for that load, so no DSB is needed.
    /// Source: Arm ARM DDI 0487, "Data Memory Barrier (DMB)".
    fn order_loads(&mut self) {
        barrier::dmb(barrier::LD);
    }

    fn power(&self, dart: DartId) -> Power {
        self.darts.get(dart.index()).map_or(Power::Off, |(_, domains)| domains.power())
    }

    fn ticks(&self) -> u64 {
        CNTPCT_EL0.get()
    }

    fn ticks_per_millisecond(&self) -> u64 {
        CNTFRQ_EL0.get() / 1000
    }
}
