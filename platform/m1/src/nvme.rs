//! The M1's NVMe controller (ANS), an untranslated bus master: which pages a command names, and
//! when the controller has finished with them.
//!
//! The driver fills a submission entry and writes its number to a doorbell; that store traps. The
//! pages that the entry names are brought home and pinned there until the completion queue shows
//! that the command is done. The queue is read in the next trap of a doorbell or of a DART,
//! whichever comes first. So a command costs one trap, and nothing else traps in steady state: the
//! completion's registers lie in another page. Source: Linux `drivers/nvme/host/apple.c`,
//! U-Boot `drivers/nvme/nvme_apple.c`; NVM Express Base Specification 1.4, 3.1, 4.1 to 4.4, 4.6,
//! 5.2 to 5.5, 5.12 and 5.14.
//!
//! Whatever a guest writes into registers, queues and lists is answered or refused with a
//! [`Refusal`]. One trap examines no more than 1032 addresses, pins at most as many pages, and
//! unpins at most twice as many, those of the queues themselves apart. The traps that follow unpin
//! the rest. Where pages have many copies the machine stops sooner, and the guest repeats its
//! store: a doorbell reaches the controller when all pages are pinned.

use oche_types::addr::Gfn;

mod interface;
mod pages;
mod queue;
#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;

use interface::{MAX_COMMANDS, MAX_PAGES, MAX_QUEUE_PAGES};
pub use interface::{NvmeHost, Refusal, StoreVerdict};
use queue::{Place, Queue};

/// Registers that trap, in the page at offset 0: `CC`, `AQA`, `ASQ`, `ACQ`, used when the
/// controller is set up.
pub const SETUP: u64 = 0;
/// The page with the doorbells.
pub const DOORBELLS: u64 = 0x2_4000;
/// Doorbells, from the controller's start: a store is the number of a submission entry.
const ADMIN_DOORBELL: u64 = 0x2_490c;
const IO_DOORBELL: u64 = 0x2_4910;
/// `CC`: bit 0 enables the controller.
const CC: u64 = 0x14;
/// `AQA`: entries less one, of the submission queue in bits 11:0, of the completion queue in 27:16.
const AQA: u64 = 0x24;
/// `ASQ` and `ACQ`: the addresses of the admin queues, 64 bits each.
const ASQ: u64 = 0x28;
const ACQ: u64 = 0x30;
/// Upper bound of the heap that [`Ans`] uses, in bytes.
pub const HEAP_BYTES: u64 = {
    // A buddy allocator rounds up. By command: its pages, and 64 bytes of record.
    let pages = (MAX_PAGES * size_of::<Gfn>()).next_power_of_two();
    let queues = 2 * MAX_QUEUE_PAGES * size_of::<Gfn>();
    2 * (MAX_COMMANDS * (pages + 64) + queues) as u64
};

/// The controller's queues and the commands under way.
#[derive(Debug)]
pub struct Ans {
    /// The value of `AQA` that the guest stored last, and those of `ASQ` and `ACQ`.
    admin_sizes: u32,
    admin_places: [u64; 2],
    is_enabled: bool,
    admin: Queue,
    io: Queue,
}

impl Default for Ans {
    fn default() -> Self {
        Self::new()
    }
}

impl Ans {
    /// A controller without queues. Allocates all memory that is ever needed.
    pub fn new() -> Self {
        let (admin, io) = (Queue::new(), Queue::new());
        Self { admin_sizes: 0, admin_places: [0; 2], is_enabled: false, admin, io }
    }

    /// The guest is about to store `value` at `offset` of the controller's registers.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: the store must not reach the controller.
    pub fn before_store(
        &mut self,
        offset: u64,
        value: u32,
        machine: &mut impl NvmeHost,
    ) -> Result<StoreVerdict, Refusal> {
        let mut left = MAX_PAGES;
        self.find_done(machine);
        self.unpin(&mut left, machine);
        let result = match offset {
            CC => {
                let is_enabled = value & 1 != 0;
                // Also when it is enabled again after a reset that did not trap.
                if !(is_enabled && self.is_enabled) {
                    self.forget();
                }
                self.is_enabled = is_enabled;
                Ok(StoreVerdict::Pass)
            }
            AQA | ASQ..0x38 => {
                self.set_admin_queue(offset, value);
                Ok(StoreVerdict::Pass)
            }
            ADMIN_DOORBELL => self.submit_admin(value, machine),
            IO_DOORBELL => self.submit_io(value, machine),
            _ => Ok(StoreVerdict::Pass),
        };
        self.unpin(&mut left, machine);
        result
    }

    /// The store that [`Self::before_store`] let pass did not reach the controller: it has no
    /// command from it.
    pub fn store_failed(&mut self, offset: u64, value: u32) {
        match offset {
            ADMIN_DOORBELL => self.admin.give_up(value),
            IO_DOORBELL => self.io.give_up(value),
            _ => {}
        }
    }

    /// Finds out which commands are done by now, and unpins their pages, as many as one trap may.
    pub fn collect(&mut self, machine: &mut impl NvmeHost) {
        self.find_done(machine);
        self.unpin(&mut { MAX_PAGES }, machine);
    }

    fn find_done(&mut self, machine: &mut impl NvmeHost) {
        let was_admin_done = self.admin.collect(machine);
        if self.io.collect(machine) || was_admin_done {
            machine.order_loads();
        }
    }

    /// Whether nothing is pinned.
    pub fn is_idle(&self) -> bool {
        self.admin.is_idle() && self.io.is_idle()
    }

    fn unpin(&mut self, left: &mut usize, machine: &mut impl NvmeHost) {
        self.admin.unpin(left, machine);
        self.io.unpin(left, machine);
    }

    /// The controller is set up anew: it has finished with all queues and commands.
    fn forget(&mut self) {
        self.admin.forget();
        self.io.forget();
    }

    fn set_admin_queue(&mut self, offset: u64, value: u32) {
        let half = |place: &mut u64, is_upper: bool| {
            let shift = 32 * u32::from(is_upper);
            *place = *place & !(0xffff_ffff << shift) | u64::from(value) << shift;
        };
        let [submissions, completions] = &mut self.admin_places;
        match offset {
            AQA => self.admin_sizes = value,
            ASQ..ACQ => half(submissions, offset != ASQ),
            _ => half(completions, offset != ACQ),
        }
        self.forget();
    }

    fn submit_admin(
        &mut self,
        number: u32,
        machine: &mut impl NvmeHost,
    ) -> Result<StoreVerdict, Refusal> {
        if !self.admin.exists() {
            let sizes = u64::from(self.admin_sizes);
            let [submissions, completions] = self.admin_places;
            self.admin.create_submissions(
                Place { at: submissions, entries: (sizes & 0xfff) + 1 },
                machine,
            )?;
            self.admin.create_completions(
                Place { at: completions, entries: (sizes >> 16 & 0xfff) + 1 },
                machine,
            )?;
        }
        let entry = self.admin.entry(number, machine)?;
        let (opcode, queue) = (entry[0] & 0xff, entry[5] & 0xffff);
        let place = Place { at: entry[3], entries: (entry[5] >> 16 & 0xffff) + 1 };
        let is_contiguous = entry[5] >> 32 & 1 != 0;
        match (opcode, queue) {
            // Create I/O Submission Queue, Create I/O Completion Queue.
            (0x01 | 0x05, 1) if !is_contiguous => return Err(Refusal::NotContiguous),
            (0x01, 1) => self.io.create_submissions(place, machine)?,
            (0x05, 1) => self.io.create_completions(place, machine)?,
            _ => {}
        }
        self.admin.submit(number, &entry, machine, pages::of_admin)
    }

    fn submit_io(
        &mut self,
        number: u32,
        machine: &mut impl NvmeHost,
    ) -> Result<StoreVerdict, Refusal> {
        let entry = self.io.entry(number, machine)?;
        self.io.submit(number, &entry, machine, pages::of_io)
    }
}
