//! A stage-2 fault as a platform receives it, and how a platform resolves it.

use oche_trace::statistics::Exit;

use crate::callers;
use crate::device::IoResult;
use crate::frame::TrapFrame;
use crate::percpu;
use crate::stage2::Lookup;
use crate::syndrome::{Abort, Transfer};

/// How the guest goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Resume {
    /// Behind the instruction: it has been done.
    Next,
    /// At the same instruction: try again.
    Same,
    /// With a synchronous external abort.
    Abort,
}

/// A machine's answers to accesses that stage 2 stops. Called on any CPU, on several at once.
pub trait Platform: Sync {
    /// Answers a load of `bytes` bytes (1, 2, 4 or 8) at guest-physical `address`, or the store of
    /// the value `write`, where stage 2 maps nothing.
    ///
    /// # Errors
    ///
    /// No device is there, or the guest must try again.
    fn access_device(
        &'static self,
        context: TrapContext,
        address: u64,
        bytes: usize,
        write: Option<u64>,
    ) -> IoResult;
    /// Answers an access to a trapped page: see `trapped_page::hw::on_fault`.
    fn access_trapped_page(&'static self, fault: &Fault, frame: &mut TrapFrame) -> Resume;
    /// The kind of exit that an access at guest-physical `address` is counted as, where stage 2
    /// maps nothing: an access to a DART's register, or another.
    fn exit_at(&self, address: u64) -> Exit;
    /// Ends or goes on with this CPU's step: see `trapped_page::hw::on_step`.
    fn step_ended(
        &'static self,
        is_done: bool,
        frame: &mut TrapFrame,
        fault: &mut dyn FnMut() -> Option<Fault>,
    ) -> Option<Resume>;
}

/// Where an event happens: on which CPU, and at which guest instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrapContext {
    /// The CPU, as Oche numbers them.
    pub cpu: usize,
    /// `ELR_EL2` of the trap; 0 where no guest instruction is the cause.
    pub program_counter: u64,
    /// X29 of the guest's kernel; 0 where it does not matter.
    pub frame_pointer: u64,
}

impl TrapContext {
    /// The guest's instruction that trapped on this CPU.
    pub fn of(frame: &TrapFrame) -> Self {
        Self {
            cpu: percpu::index(),
            program_counter: frame.elr,
            frame_pointer: callers::hw::frame_pointer(frame),
        }
    }
}

/// A stage-2 fault that the platform must decide about.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Guest-physical address in bytes, below 2^44. For a fault on a table walk, of the page of the
    /// table.
    pub address: u64,
    /// The virtual address, in bytes.
    pub far: u64,
    /// The access, as the CPU's syndrome describes it.
    pub abort: Abort,
    /// It was an instruction fetch.
    pub is_fetch: bool,
    /// The page's stage-2 mapping when this was decided.
    pub lookup: Lookup,
}

/// A load or store that a device can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioAccess {
    /// Guest-physical address in bytes.
    pub address: u64,
    /// log2 of the access's bytes, 0 to 3.
    pub width_log2: u8,
    /// The value that is written, zero-extended; `None` for a load.
    pub write: Option<u64>,
    /// The register's side of it.
    pub transfer: Transfer,
}

impl Fault {
    /// The access, if the CPU describes it fully (`ISV`). A pair, a SIMD register, write-back or an
    /// atomic is not described and never guessed.
    pub fn mmio(&self, frame: &TrapFrame) -> Option<MmioAccess> {
        let transfer =
            self.abort.transfer.filter(|_| !self.abort.on_table_walk && !self.is_fetch)?;
        let write = self.abort.is_write.then(|| transfer.stored(frame.register(transfer.register)));
        Some(MmioAccess { address: self.address, width_log2: transfer.width_log2, write, transfer })
    }
}

impl MmioAccess {
    /// Ends a load: the device answers `value`.
    pub fn answer(&self, frame: &mut TrapFrame, value: u64) {
        frame.set_register(self.transfer.register, self.transfer.loaded(value));
    }
}
