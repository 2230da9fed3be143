//! The NVMe controller's registers under the guest: those that trap go to the hardware, and its commands are looked at.

use core::arch::asm;
use core::ptr;

use oche_boot::bare::launch;
use oche_boot::lock::SpinLock;
use oche_boot::range::{PAGE, PhysRange};
use oche_hyp::addr::Gfn;
use oche_hyp::world::Iommu;
use oche_m1::nvme::{Ans, DOORBELLS, Machine, SETUP};
use oche_platform::mediation::{Cause, Mediation};

/// The controller, if there is one.
pub(super) struct Controller {
    start: u64,
    commands: SpinLock<Ans>,
}

impl Controller {
    /// Maps what traps. Touches nothing.
    pub(super) fn at(start: u64) -> Self {
        let controller = Self { start, commands: SpinLock::new(Ans::new()) };
        controller.pages().into_iter().for_each(launch::map_registers);
        controller
    }

    /// The pages of registers that trap.
    pub(super) fn pages(&self) -> [PhysRange; 2] {
        [SETUP, DOORBELLS].map(|offset| {
            let start = self.start + offset;
            PhysRange { start, end: start + PAGE }
        })
    }

    /// Releases what commands that are done by now had named.
    pub(super) fn collect<I: Iommu>(&self, mediation: &mut Mediation<I>) {
        self.commands.lock().collect(&mut Looked { start: self.start, mediation });
    }

    /// The guest's access at `address`; `None`: it is in no page that traps, or no register answers so.
    pub(super) fn access<I: Iommu>(
        &self,
        mediation: &mut Mediation<I>,
        cause: Cause,
        (address, bytes): (u64, usize),
        write: Option<u64>,
    ) -> Option<u64> {
        let is_ours = self.pages().iter().any(|page| page.contains(address));
        if !is_ours || !matches!(bytes, 4 | 8) || !address.is_multiple_of(bytes as u64) {
            return None;
        }
        let Some(value) = write else {
            return Some(match bytes {
                // SAFETY: `at` mapped the page as Device memory, and the guest touches it: the controller is on.
                4 => u64::from(unsafe { ptr::read_volatile(address as *const u32) }),
                // SAFETY: the same.
                _ => unsafe { ptr::read_volatile(address as *const u64) },
            });
        };
        mediation.for_master(cause, |mediation| {
            let mut looked = Looked { start: self.start, mediation };
            let mut commands = self.commands.lock();
            for half in 0..bytes as u64 / 4 {
                let part = (value >> (32 * half)) as u32;
                commands.before_store(address - self.start + 4 * half, part, &mut looked);
            }
        });
        // What was copied comes before the doorbell.
        // SAFETY: a barrier.
        unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
        match bytes {
            // SAFETY: as for the load.
            4 => unsafe { ptr::write_volatile(address as *mut u32, value as u32) },
            // SAFETY: the same.
            _ => unsafe { ptr::write_volatile(address as *mut u64, value) },
        }
        Some(0)
    }
}

/// What a command's pages are looked at with.
struct Looked<'a, I> {
    start: u64,
    mediation: &'a mut Mediation<I>,
}

impl<I: Iommu> Machine for Looked<'_, I> {
    fn register(&self, offset: u64) -> u32 {
        assert!(offset < PAGE && offset.is_multiple_of(4), "a register of the setup");
        // SAFETY: in the first page, which `at` mapped; the guest just touched the controller.
        unsafe { ptr::read_volatile((self.start + offset) as *const u32) }
    }

    fn word(&mut self, address: u64) -> Option<u64> {
        self.mediation.word(address)
    }

    fn hold(&mut self, page: Gfn) {
        self.mediation.hold(page);
    }

    fn release(&mut self, page: Gfn) {
        self.mediation.release(page);
    }
}
