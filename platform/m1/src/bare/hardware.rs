//! The DARTs' registers, and those that say whether they are on.

use alloc::vec::Vec;
use core::ptr;

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable};
use oche_boot::bare::launch;
use oche_boot::range::{PAGE, PhysRange};
use oche_hyp::dart::registers::REGION_BYTES;
use oche_hyp::dart::stream::DartId;
use oche_m1::darts::{BusError, Hardware};
use oche_m1::found::{Found, Power, mediated};

/// Registers that EL2 maps: nobody else reaches them, since stage 2 does not map them.
#[derive(Debug)]
pub(super) struct Registers {
    /// By DART: its registers, and the registers of its power domains.
    darts: Vec<(u64, Vec<u64>)>,
}

impl Registers {
    /// Maps what the driver needs. Touches nothing.
    pub(super) fn map(all: &[Found]) -> Self {
        let darts = mediated(all).map(|(_, dart)| {
            launch::map_registers(dart.registers);
            for power in &dart.power {
                launch::map_registers(PhysRange { start: *power, end: power + 4 }.grown_to(PAGE));
            }
            (dart.registers.start, dart.power.clone())
        });
        Self { darts: darts.collect() }
    }

    fn register(&self, dart: DartId, offset: u64) -> *mut u32 {
        assert!(offset < REGION_BYTES && offset.is_multiple_of(4), "a DART's register");
        let (start, _) = self.darts.get(dart.index()).expect("the driver knows the DARTs that it was given");
        (start + offset) as *mut u32
    }
}

impl Hardware for Registers {
    fn read(&self, dart: DartId, offset: u64) -> Result<u32, BusError> {
        let register = self.register(dart, offset);
        // SAFETY: `map` mapped it as Device memory; the driver asks first whether the DART is on.
        Ok(unsafe { ptr::read_volatile(register) })
    }

    fn write(&mut self, dart: DartId, offset: u64, value: u32) -> Result<(), BusError> {
        let register = self.register(dart, offset);
        // SAFETY: as for `read`.
        unsafe { ptr::write_volatile(register, value) };
        Ok(())
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
        let registers = self.darts.get(dart.index()).map_or(&[][..], |(_, power)| power);
        Power::of_all(registers.iter().map(|register| {
            // SAFETY: `map` mapped it as Device memory; the power manager itself is always on.
            Power::from_register(unsafe { ptr::read_volatile(*register as *const u32) })
        }))
    }

    fn ticks(&self) -> u64 {
        CNTPCT_EL0.get()
    }

    fn ticks_per_millisecond(&self) -> u64 {
        CNTFRQ_EL0.get() / 1000
    }
}
