//! Stage-2 faults, and the trait through which a platform handles them.
// UNSAFETY: the declaration of an unsafe trait; there is no unsafe block.
#![expect(unsafe_code, reason = "isolation rests on what a platform does for the guest")]

use oche_types::dart::stream::DartId;

use crate::callers;
use crate::device::IoResult;
use crate::frame::TrapFrame;
use crate::percpu;
use crate::stage2::Lookup;
use crate::syndrome::{Abort, Exception, Transfer};

/// How the guest continues after a trap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Resume {
    /// After the instruction, which has been carried out.
    Next,
    /// At the same instruction, which the CPU repeats.
    Same,
    /// With a synchronous external abort at the instruction.
    Abort,
}

/// A board's handling of accesses that stage 2 refuses. Called on any CPU, also concurrently.
///
/// # Safety
///
/// The methods carry out what stage 2 has refused, at an address that the guest chose. They access
/// only the guest's RAM, where the engine has placed it, registers that are emulated, and registers
/// that are left to the guest: stage 2 does not protect Oche from these accesses.
pub unsafe trait Platform: Sync {
    /// Whether the guest may have RAM at guest-physical `address`. It chooses what is tried first:
    /// an access that it misleads takes the long way.
    fn may_be_memory(address: u64) -> bool
    where
        Self: Sized;
    /// The DART whose registers are at guest-physical `address`, and the offset in them, in bytes.
    /// Stage 2 does not map the registers of a DART that is emulated.
    fn dart_at(&self, address: u64) -> Option<(DartId, u64)>;
    /// Carries out a load of `bytes` bytes (1, 2, 4 or 8) at `offset` of a DART's registers, or a
    /// store of `write` there.
    ///
    /// # Errors
    ///
    /// [`IoError::NoRegister`](crate::device::IoError::NoRegister) if no register supports the
    /// access, or the error that makes the guest repeat it.
    fn access_dart(
        &'static self,
        context: TrapContext,
        dart: (DartId, u64),
        bytes: usize,
        write: Option<u64>,
    ) -> IoResult;
    /// As [`Self::access_dart`], at guest-physical `address`, which stage 2 does not map and which
    /// is not in a DART's registers.
    ///
    /// # Errors
    ///
    /// As for [`Self::access_dart`]; also if no device is there.
    fn access_device(
        &'static self,
        context: TrapContext,
        address: u64,
        bytes: usize,
        write: Option<u64>,
    ) -> IoResult;
    /// Handles an access to a trapped page: see `trapped_page::hw::on_fault`.
    fn access_trapped_page(&'static self, fault: &Stage2Fault, frame: &mut TrapFrame) -> Resume;
    /// Carries out a load or store that stage 2 refused at the virtual address `far`, if it is a
    /// common access to a trapped page: see `trapped_page::known`. Returns whether it did.
    fn emulate_known(&'static self, far: u64, is_write: bool, frame: &mut TrapFrame) -> bool;
    /// Ends or continues this CPU's step: see `trapped_page::hw::on_step`.
    fn step_ended(
        &'static self,
        is_done: bool,
        frame: &mut TrapFrame,
        fault: &mut dyn FnMut() -> Option<Stage2Fault>,
    ) -> Option<Resume>;
}

/// The CPU and the guest instruction of a trap, recorded with its events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrapContext {
    /// The CPU's number in Oche.
    pub cpu: usize,
    /// `ELR_EL2` of the trap; 0 if no guest instruction is the cause.
    pub program_counter: u64,
    /// X29 of the guest's kernel; 0 if it is not needed.
    pub frame_pointer: u64,
}

impl TrapContext {
    /// The context of the trap on this CPU whose registers are in `frame`.
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
pub struct Stage2Fault {
    /// Guest-physical address in bytes, below 2^44. For a fault on a table walk, the address of the
    /// table's page.
    pub address: u64,
    /// The virtual address, in bytes.
    pub far: u64,
    /// The syndrome of the access.
    pub abort: Abort,
    /// Whether the access was an instruction fetch.
    pub is_fetch: bool,
    /// The page's stage-2 mapping when the fault was classified.
    pub lookup: Lookup,
}

/// A load or store of one register that the syndrome describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioAccess {
    /// Guest-physical address in bytes.
    pub address: u64,
    /// log2 of the access's bytes, 0 to 3.
    pub width_log2: u8,
    /// The value to store, zero-extended; `None` for a load.
    pub write: Option<u64>,
    /// The register to load or store.
    pub transfer: Transfer,
}

impl Stage2Fault {
    /// The access, if the syndrome describes it (`ISV` = 1). It does not for a pair, a SIMD
    /// register, write-back or an atomic.
    pub fn mmio(&self, frame: &TrapFrame) -> Option<MmioAccess> {
        let transfer =
            self.abort.transfer.filter(|_| !self.abort.on_table_walk && !self.is_fetch)?;
        let write = self.abort.is_write.then(|| transfer.stored(frame.register(transfer.register)));
        Some(MmioAccess { address: self.address, width_log2: transfer.width_log2, write, transfer })
    }
}

impl MmioAccess {
    /// The access of a translation fault, if the syndrome describes it completely: most accesses to
    /// devices.
    #[inline]
    pub fn of(exception: &Exception, frame: &TrapFrame) -> Option<Self> {
        let transfer = exception.described_translation_fault()?;
        let write =
            exception.is_write().then(|| transfer.stored(frame.register(transfer.register)));
        let address = exception.hpfar_page() | exception.far & 0xfff;
        Some(Self { address, width_log2: transfer.width_log2, write, transfer })
    }

    /// Completes a load with `value`.
    pub fn answer(&self, frame: &mut TrapFrame, value: u64) {
        frame.set_register(self.transfer.register, self.transfer.loaded(value));
    }
}
