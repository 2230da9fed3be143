//! The trace port: a virtio console that Oche emulates, whose DMA no DART translates.

use alloc::boxed::Box;

use aarch64_cpu::registers::{CNTPCT_EL0, Readable};
use oche_engine::Engine;
use oche_engine::guest_memory::EngineMemory;
use oche_engine::host::Iommu;
use oche_virtio::console::{Console, Effect};
use oche_virtio::port::TracePort;

use crate::host::PlatformHost;

/// Asserts the interrupt of the trace port (`true`, each time that there is something new) or
/// deasserts it (`false`, when the guest has acknowledged everything). A board with an
/// edge-triggered interrupt ignores `false`.
pub type SetInterrupt = Box<dyn Fn(bool) + Send>;

/// The console device with its trace port. It allocates only in `new`.
pub struct TraceConsole {
    console: Console,
    port: TracePort,
    set_interrupt: SetInterrupt,
}

impl TraceConsole {
    /// Creates a console for `port` that interrupts the guest with `set_interrupt`.
    pub fn new(port: TracePort, set_interrupt: SetInterrupt) -> Self {
        Self { console: Console::default(), port, set_interrupt }
    }

    /// Loads `bytes` bytes at `offset` of the registers for the guest.
    pub fn load(&self, offset: u64, bytes: usize) -> u64 {
        u64::from(self.console.read(offset, bytes))
    }

    /// Stores `value` to the registers for the guest.
    pub fn store<I: Iommu>(
        &mut self,
        engine: &mut Engine,
        machine: &mut PlatformHost<I>,
        offset: u64,
        bytes: usize,
        value: u64,
    ) {
        let was_interrupting = self.console.is_interrupting();
        // For a value of more than 32 bits, the width makes the console refuse the access.
        let effect = self.console.write(offset, bytes, value as u32, &mut self.port);
        if was_interrupting && !self.console.is_interrupting() {
            (self.set_interrupt)(false);
        }
        if effect == Effect::Work {
            self.port.is_due(CNTPCT_EL0.get());
            self.work(engine, machine);
        }
    }

    /// Passes new records to a reader that waits for them.
    #[inline]
    pub fn go_on<I: Iommu>(&mut self, engine: &mut Engine, machine: &mut PlatformHost<I>) {
        if self.console.is_open() && self.port.is_due(CNTPCT_EL0.get()) {
            self.work(engine, machine);
        }
    }

    #[inline(never)]
    fn work<I: Iommu>(&mut self, engine: &mut Engine, machine: &mut PlatformHost<I>) {
        let mut memory = EngineMemory::new(engine, machine);
        if self.console.work(&mut memory, &mut self.port) {
            (self.set_interrupt)(true);
        }
    }
}
