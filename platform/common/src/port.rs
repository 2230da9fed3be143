//! The trace's port: a virtio console that Oche shows the guest, outside of every DART.

use alloc::boxed::Box;

use aarch64_cpu::registers::{CNTPCT_EL0, Readable};
use oche_engine::Engine;
use oche_engine::guest_memory::EngineMemory;
use oche_engine::host::Iommu;
use oche_virtio::console::{self, Console, Effect};
use oche_virtio::port::{self, TracePort};

use crate::host::PlatformHost;

/// Interrupts the guest (`true`, each time that there is something new) or takes that back
/// (`false`, when the guest has acknowledged all of it). A board whose interrupt is an edge has
/// nothing to take back.
pub type SetInterrupt = Box<dyn Fn(bool) + Send>;

/// Upper bound of the heap that a [`TraceConsole`] uses, in bytes: its last part is the box of
/// [`SetInterrupt`].
pub const HEAP_BYTES: u64 = (console::HEAP_BYTES + port::HEAP_BYTES + 64) as u64;

/// The device and what is behind it. Allocates when it is made and never again.
pub struct TraceConsole {
    console: Console,
    port: TracePort,
    set_interrupt: SetInterrupt,
}

impl TraceConsole {
    /// A console for `port` that interrupts the guest by `set_interrupt`.
    pub fn new(port: TracePort, set_interrupt: SetInterrupt) -> Self {
        Self { console: Console::default(), port, set_interrupt }
    }

    /// The guest loads `bytes` bytes at `offset` of the registers.
    pub fn load(&self, offset: u64, bytes: usize) -> u64 {
        u64::from(self.console.read(offset, bytes))
    }

    /// The guest stores `value`.
    pub fn store<I: Iommu>(
        &mut self,
        engine: &mut Engine,
        machine: &mut PlatformHost<I>,
        offset: u64,
        bytes: usize,
        value: u64,
    ) {
        let was_interrupting = self.console.is_interrupting();
        // A value of more than 32 bits comes with a width that the console refuses.
        let effect = self.console.write(offset, bytes, value as u32, &mut self.port);
        if was_interrupting && !self.console.is_interrupting() {
            (self.set_interrupt)(false);
        }
        if effect == Effect::Work {
            self.port.is_due(CNTPCT_EL0.get());
            self.work(engine, machine);
        }
    }

    /// Something was traced: hands it on if a reader waits for it.
    #[inline]
    pub fn go_on<I: Iommu>(&mut self, engine: &mut Engine, machine: &mut PlatformHost<I>) {
        if self.console.is_open() && self.port.is_due(CNTPCT_EL0.get()) {
            self.work(engine, machine);
        }
    }

    fn work<I: Iommu>(&mut self, engine: &mut Engine, machine: &mut PlatformHost<I>) {
        let mut memory = EngineMemory::new(engine, machine);
        if self.console.work(&mut memory, &mut self.port) {
            (self.set_interrupt)(true);
        }
    }
}
