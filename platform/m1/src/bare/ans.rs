//! The NVMe controller's registers: accesses of the guest that trap are examined and passed to the
//! hardware.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use oche_boot::bare::memory;
use oche_el2::device::{IoError, IoResult};
use oche_el2::fault::TrapContext;
use oche_el2::lock::SpinLock;
use oche_el2::mmio;
use oche_engine::budget::Budget;
use oche_engine::host::Iommu;
use oche_m1::nvme::{Ans, DOORBELLS, NvmeHost, Refusal, SETUP, StoreVerdict};
use oche_m1::power::Power;
use oche_platform::emulated_darts::EmulatedDarts;
use oche_types::addr::Gfn;
use oche_types::range::{PAGE, PhysRange};

use oche_m1::hw::power::PowerDomains;

/// The controller, if there is one.
pub(super) struct Controller {
    start: u64,
    domains: PowerDomains,
    commands: SpinLock<Ans>,
    /// Doorbells that were refused.
    refusals: AtomicU32,
}

/// The controller's name in the log.
const NAME: &str = "nvme";

/// Refused doorbells that are logged; the guest can repeat them without limit.
const MAX_REPORTED: u32 = 8;

impl Controller {
    /// Maps the pages that trap. Accesses nothing.
    pub(super) fn at(start: u64, domains: PowerDomains) -> Self {
        let controller = Self {
            start,
            domains,
            commands: SpinLock::new(Ans::new()),
            refusals: AtomicU32::new(0),
        };
        controller.pages().into_iter().for_each(memory::map_registers);
        controller
    }

    /// The pages of registers that trap.
    pub(super) fn pages(&self) -> [PhysRange; 2] {
        [SETUP, DOORBELLS].map(|offset| {
            let start = self.start + offset;
            PhysRange { start, end: start + PAGE }
        })
    }

    /// Unpins the pages of commands that have completed.
    pub(super) fn collect<I: Iommu>(&self, emulated_darts: &mut EmulatedDarts<I>) {
        self.commands.lock().collect(&mut NvmeContext::new(emulated_darts));
    }

    /// Logs a refused store, the first few of them.
    fn report(&self, address: u64, value: u64, refusal: Refusal) {
        let before = self.refusals.fetch_add(1, Ordering::Relaxed);
        if before < MAX_REPORTED {
            log::warn!(
                "nvme: the guest's store of {value:#x} to doorbell {address:#x} is refused: {refusal}"
            );
        }
    }

    /// Carries out the guest's access at `address`. Returns the loaded value, or 0 for a store.
    ///
    /// # Errors
    ///
    /// [`IoError::NoRegister`]: the address is in no page that traps, no register has this width,
    /// or the controller does not answer. [`IoError::Again`]: it is more than one trap's work.
    pub(super) fn access<I: Iommu>(
        &self,
        emulated_darts: &mut EmulatedDarts<I>,
        context: TrapContext,
        (address, bytes): (u64, usize),
        write: Option<u64>,
    ) -> IoResult {
        let is_ours = self.pages().iter().any(|page| page.contains(address));
        if !is_ours || !matches!(bytes, 4 | 8) || !address.is_multiple_of(bytes as u64) {
            return Err(IoError::NoRegister);
        }
        // Without power this is a bus error.
        if self.domains.power() != Power::On {
            return Err(IoError::NoRegister);
        }
        let Some(value) = write else { return self.load(address, bytes) };
        match self.before_store(emulated_darts, context, (address, bytes), value) {
            Ok(StoreVerdict::Pass) => {}
            Ok(StoreVerdict::Again) => return Err(IoError::Again),
            Err(refusal) => {
                self.report(address, value, refusal);
                return Ok(0);
            }
        }
        // Copied pages are complete before the doorbell: `mmio` completes all earlier stores.
        let stored = match bytes {
            // SAFETY: as for a load.
            4 => unsafe { mmio::write32(address, value as u32) },
            // SAFETY: the same.
            _ => unsafe { mmio::write64(address, value) },
        };
        if stored.is_err() {
            let mut commands = self.commands.lock();
            registers_of((address - self.start, bytes), value)
                .for_each(|(offset, part)| commands.store_failed(offset, part));
        }
        stored.map(|()| 0).map_err(|error| bus_error(&error))
    }

    /// The verdict on a store to one or two registers.
    fn before_store<I: Iommu>(
        &self,
        emulated_darts: &mut EmulatedDarts<I>,
        context: TrapContext,
        (address, bytes): (u64, usize),
        value: u64,
    ) -> Result<StoreVerdict, Refusal> {
        emulated_darts.for_master(context, |emulated_darts| {
            let mut context = NvmeContext::new(emulated_darts);
            let mut commands = self.commands.lock();
            let mut verdict = StoreVerdict::Pass;
            for (offset, part) in registers_of((address - self.start, bytes), value) {
                if commands.before_store(offset, part, &mut context)? == StoreVerdict::Again {
                    verdict = StoreVerdict::Again;
                }
            }
            Ok(verdict)
        })
    }

    fn load(&self, address: u64, bytes: usize) -> IoResult {
        let loaded = match bytes {
            // SAFETY: `at` mapped the page as Device memory, and the guest reads what it chose to
            // read.
            4 => unsafe { mmio::read32(address) }.map(u64::from),
            // SAFETY: the same.
            _ => unsafe { mmio::read64(address) },
        };
        loaded.map_err(|error| bus_error(&error))
    }
}

/// The registers that a store of `bytes` bytes at `offset` reaches, with the value for each.
fn registers_of((offset, bytes): (u64, usize), value: u64) -> impl Iterator<Item = (u64, u32)> {
    (0..bytes as u64 / 4).map(move |half| (offset + 4 * half, (value >> (32 * half)) as u32))
}

fn bus_error(error: &mmio::BusError) -> IoError {
    mmio::report(&NAME, error);
    IoError::NoRegister
}

/// The machine, for the commands that one trap examines.
struct NvmeContext<'a, I> {
    emulated_darts: &'a mut EmulatedDarts<I>,
    /// The budget of the whole trap, for all pages that are pinned and unpinned in it.
    budget: Budget,
}

impl<'a, I: Iommu> NvmeContext<'a, I> {
    fn new(emulated_darts: &'a mut EmulatedDarts<I>) -> Self {
        let budget = emulated_darts.trap_budget();
        Self { emulated_darts, budget }
    }
}

// SAFETY: the engine moves each of the pages home and counts its pins, and moves none from there as
// long as there are any.
unsafe impl<I: Iommu> NvmeHost for NvmeContext<'_, I> {
    fn word(&mut self, address: u64) -> Option<u64> {
        self.emulated_darts.word(address)
    }

    fn pin(&mut self, pages: &[Gfn]) -> usize {
        self.emulated_darts.pin_all(pages, &mut self.budget)
    }

    fn unpin(&mut self, pages: &[Gfn]) -> usize {
        self.emulated_darts.unpin_all(pages, &mut self.budget)
    }

    fn order_loads(&mut self) {
        // SAFETY: a barrier. The controller is a master of the outer shareable domain.
        unsafe { asm!("dmb oshld", options(nostack, preserves_flags)) };
    }
}
